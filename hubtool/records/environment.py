"""Where a run was computed. Numerics change only the rounding; they are recorded and compared, never digested with a recipe."""

from __future__ import annotations

from pydantic import model_validator

from hubtool.records.strict import Record


class Numerics(Record):
    """What decides the last bits. ``device`` is its kind and model (``cpu``, ``cuda NVIDIA H200``), ``cpu_capability`` what torch
    dispatches to (``AVX2``, ``AVX512``); two runs on equal Numerics are bit-identical."""

    device: str
    cpu_capability: str
    num_threads: int
    num_processes: int = 1
    memory_format: str = "contiguous"
    is_folded: bool = False
    is_compiled: bool = False
    tf32: bool = False
    libraries: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _as_it_is_now(cls, value: object) -> object:
        """Older records said that deterministic kernels were asked for, which they always are."""
        return {k: v for k, v in value.items() if k != "is_deterministic"} if isinstance(value, dict) else value


class Environment(Record):
    """Numerics and what is good to know beside; never a host, user or path."""

    numerics: Numerics
    os: str
    machine: str
    python: str
    hubtool: str
    num_cpus: int
    memory_bytes: int | None = None


class Difference(Record):
    """One field that differs between what was and what is."""

    field: str
    was: str
    now: str


def differences(was: Record, now: Record, prefix: str = "") -> tuple[Difference, ...]:
    """Field by field, nested fields by their path."""
    return tuple(_differences(was.to_dict(), now.to_dict(), prefix))


def _differences(was: object, now: object, path: str) -> list[Difference]:
    if isinstance(was, dict) and isinstance(now, dict):
        found: list[Difference] = []
        for key in sorted(was.keys() | now.keys()):
            found += _differences(was.get(key), now.get(key), f"{path}.{key}" if path else str(key))
        return found
    return [] if was == now else [Difference(field=path, was=str(was), now=str(now))]
