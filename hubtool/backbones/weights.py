"""Weights as named tensors: their digests, reading and writing safetensors, and the one strict loader.

Digests are over sorted (name, dtype, shape, bytes), never over a file: two files may hold one set of weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hubtool.backbones.modules import is_under
from hubtool.core.digests import tensors_digest
from hubtool.core.errors import IntegrityError, NotFoundError, NumericError
from hubtool.core.files import write_bytes

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 64 << 20
_MAX_TENSORS = 100_000
_MAX_ROWS = 20


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """The digest of a set of weights. Independent of device, order and file layout."""
    return tensors_digest(_rows(tensors))


def tensor_digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """One digest for each tensor, by name: what differs between two states can be named."""
    return {row[0]: tensors_digest([row]) for row in _rows(tensors)}


def _rows(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str, tuple[int, ...], memoryview]]:
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy().data
        yield name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), memoryview(data).cast("B")


def save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write safetensors durably, with the one metadata key that timm and transformers expect.

    Tensors that share memory are written each on their own.
    """
    own = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(own, metadata={"format": "pt"}))


def load(path: Path) -> dict[str, Tensor]:
    """Read one safetensors file. Raises IntegrityError for a damaged one, NumericError for NaN or Inf in it."""
    _check_header(path)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as stream:
            state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise IntegrityError("E-WEIGHTS-DAMAGED", f"not readable as safetensors: {error}", where=path.name) from error
    check_finite(state, path.name)
    return state


def load_directory(directory: Path, *, what: str) -> dict[str, Tensor]:
    """The weights of a directory: ``model.safetensors``, or the shards its index names. ``what`` names it in errors."""
    single = directory / WEIGHTS_NAME
    if single.is_file():
        return load(single)
    index = directory / INDEX_NAME
    if index.is_file():
        return _load_shards(directory, index)
    named = sorted(path for path in directory.glob("*.safetensors") if path.name != "head.safetensors")
    if len(named) == 1:
        return load(named[0])
    pickles = [p.name for p in directory.iterdir() if p.suffix in (".bin", ".pth", ".pt", ".ckpt")]
    raise NotFoundError(
        "E-WEIGHTS-404",
        f"{what} has no {WEIGHTS_NAME}" + (f", only {', '.join(sorted(pickles)[:3])}" if pickles else ""),
        do=f"`hubtool convert {sorted(pickles)[0]}` makes one" if pickles else "",
    )


def _load_shards(directory: Path, index: Path) -> dict[str, Tensor]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise IntegrityError("E-WEIGHTS-INDEX", "the index of the shards is damaged", where=index.name) from error
    state: dict[str, Tensor] = {}
    for name in names:
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise IntegrityError("E-WEIGHTS-INDEX", f"{name!a} is no shard beside its index", where=index.name)
        if not (directory / name).is_file():
            raise IntegrityError("E-WEIGHTS-SHARD", f"the shard {name} is missing", where=index.name)
        state.update(load(directory / name))
    absent = sorted(set(weight_map) - set(state))
    if absent:
        raise IntegrityError("E-WEIGHTS-INDEX", f"{len(absent)} tensors are in no shard: {absent[0]}", where=index.name)
    return state


def _check_header(path: Path) -> None:
    """What safetensors itself lets pass: an endless header, names twice."""
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
            size_bytes = int.from_bytes(head, "little")
            limit = min(_MAX_HEADER_BYTES, path.stat().st_size - 8)
            if not head:
                raise IntegrityError("E-WEIGHTS-HEADER", "the file is empty", where=path.name, do="fetch it again")
            if len(head) < 8 or size_bytes > limit:
                raise IntegrityError("E-WEIGHTS-HEADER", "the header is longer than the file allows", where=path.name)
            pairs: list[list[str]] = []

            def keep(items: list[tuple[str, object]]) -> dict[str, object]:
                pairs.append([key for key, _ in items])
                return dict(items)

            json.loads(stream.read(size_bytes), object_pairs_hook=keep)
    except FileNotFoundError as error:
        raise NotFoundError("E-WEIGHTS-404", "the weights are missing", where=path.name) from error
    except (ValueError, RecursionError) as error:
        raise IntegrityError("E-WEIGHTS-HEADER", "the header is no JSON", where=path.name) from error
    names = pairs[-1] if pairs else []
    if len(names) != len(set(names)):
        raise IntegrityError("E-WEIGHTS-HEADER", "a tensor is named twice", where=path.name)
    if len(names) > _MAX_TENSORS:
        raise IntegrityError("E-WEIGHTS-HEADER", f"{len(names)} tensors, more than {_MAX_TENSORS}", where=path.name)


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Raise NumericError with the first tensor and index that holds NaN or Inf."""
    for name in sorted(state):
        tensor = state[name]
        if tensor.dtype == torch.float4_e2m1fn_x2:
            raise IntegrityError(
                "E-WEIGHTS-DTYPE",
                f"{name} is packed as 4-bit floats, which torch does not compute with",
                where=where,
                do="take the weights as float32, float16 or bfloat16",
            )
        is_bound = tensor.ndim == 0 and bool(torch.isinf(tensor))  # "no limit", as some quantised models keep
        if tensor.is_floating_point() and not is_bound and not bool(torch.isfinite(tensor).all()):
            index = torch.nonzero(~torch.isfinite(tensor))[0].tolist()
            raise NumericError("E-WEIGHTS-NAN", f"{name}{index} is {tensor[tuple(index)].item()}", where=where)


def load_strict(
    model: nn.Module,
    state: Mapping[str, Tensor],
    head_names: tuple[str, ...],
    *,
    ignore: Callable[[str], bool] = lambda _: False,
) -> None:
    """Load ``state`` so that it cannot be silently wrong, or raise IntegrityError (5) with a table of what differs.

    Missing names must lie under ``head_names`` (prefixes), nothing may be unexpected, shapes must be equal.
    ``ignore`` names keys of the file that are known to be of no use (a counter an old format kept).
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state and not is_under(name, head_names)]
    unexpected = [name for name in state if name not in own and not ignore(name)]
    misshapen = [name for name, tensor in state.items() if name in own and own[name].shape != tensor.shape]
    if missing or unexpected or misshapen:
        raise _mismatch(own, state, missing, unexpected, misshapen)
    with torch.no_grad():
        for name, target in own.items():
            if name in state:
                target.copy_(state[name])


def _mismatch(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    misshapen: list[str],
) -> IntegrityError:
    rows = [f"missing {name} {list(own[name].shape)}" for name in missing]
    rows += [f"unexpected {name} {list(state[name].shape)}" for name in unexpected]
    rows += [f"shape {name}: model {list(own[name].shape)}, file {list(state[name].shape)}" for name in misshapen]
    matched = sum(name in state and state[name].shape == own[name].shape for name in own)
    more = f"; and {len(rows) - _MAX_ROWS} more" if len(rows) > _MAX_ROWS else ""
    return IntegrityError(
        "E-WEIGHTS-MISMATCH",
        f"{matched} of {len(own)} tensors match: {'; '.join(rows[:_MAX_ROWS])}{more}",
        do="the file and the architecture do not belong together",
    )
