"""The child of ``unpickle``: ``python -m … PICKLE TARGET MEMORY_BYTES``; answers with one line of JSON on stdout."""

from __future__ import annotations

import json
import re
import resource
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

_INSIDE = ("state_dict", "model_state_dict", "model", "net", "weights", "module", "teacher", "params")
_REFUSED = (
    *("socket.", "subprocess.", "ctypes.", "shutil.", "webbrowser.", "urllib."),
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill"),
    *("os.remove", "os.rename", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink"),
)
_TIME_LIMIT_S = 600


def main(source: Path, target: Path, memory_bytes: int) -> dict[str, Any]:
    _limit(memory_bytes, source.stat().st_size)
    _forbid(target)
    try:
        value = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 (the child-process boundary: a damaged pickle may raise anything)
        if type(error).__name__ == "UnpicklingError" and ("GLOBAL" in str(error) or "Unsupported" in str(error)):
            return _refuse(str(error))
        return _said("integrity", "E-PICKLE-DAMAGED", f"not readable as a checkpoint: {str(error)[:200]}")
    tensors, note = _find_tensors(value)
    if not tensors:
        kind = f"a {type(value).__name__}" + (
            f" of {', '.join(map(str, list(value)[:6]))}" if isinstance(value, dict) else ""
        )
        return _said("usage", "E-PICKLE-NOTENSORS", f"it holds {kind} and no named tensors")
    own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    target.write_bytes(safetensors.torch.save(own, metadata={"format": "pt"}))
    return {"num_tensors": len(own), "note": note}


def _limit(memory_bytes: int, size_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (_TIME_LIMIT_S, _TIME_LIMIT_S))
    most = 8 * size_bytes + (64 << 20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _forbid(target: Path) -> None:
    """From here on no network, no process, no file written but the target."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(_REFUSED):
            raise PermissionError(f"refused: {event}")
        if event == "open":
            path, mode, flags = (*args, None, None)[:3]
            writes = isinstance(mode, str) and any(c in mode for c in "wax+")
            writes = writes or (isinstance(flags, int) and bool(flags & 0o3))
            if writes and str(path) != str(target):
                raise PermissionError(f"refused: writing {path}")

    sys.addaudithook(hook)


def _find_tensors(value: Any) -> tuple[dict[str, Tensor], str]:
    """The named tensors of a state dict, or of the one inside a training checkpoint; and what was left out, in words."""
    if not isinstance(value, dict):
        return {}, ""
    tensors = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}
    if tensors:
        left = [str(name) for name in value if str(name) not in tensors]
        return tensors, f"left out, being no tensors: {', '.join(left[:8])}" if left else ""
    for name in _INSIDE:
        inner = value.get(name)
        if isinstance(inner, dict) and any(isinstance(t, Tensor) for t in inner.values()):
            found, _ = _find_tensors(inner)
            left = [str(other) for other in value if other != name]
            prefix = "module."
            if all(key.startswith(prefix) for key in found):
                found = {key.removeprefix(prefix): tensor for key, tensor in found.items()}
            rest = f"; left out: {', '.join(left[:8])}" if left else ""
            return found, f"a training checkpoint: its {name!r} was taken{rest}"
    return {}, ""


def _refuse(text: str) -> dict[str, Any]:
    named = re.search(r"GLOBAL ([A-Za-z0-9_.]+)", text)
    what = named.group(1) if named else "objects of some class"
    return _said(
        "security",
        "E-SEC-PICKLE",
        f"it is no dictionary of tensors but pickles {what}: loading it would run code",
        "where the model's code is trusted, save torch.save(model.state_dict(), FILE) and convert that",
    )


def _said(kind: str, code: str, what: str, do: str = "") -> dict[str, Any]:
    return {"error": kind, "code": code, "what": what, "do": do}


if __name__ == "__main__":
    answer = main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(json.dumps(answer) + "\n")
