"""hubtool convert: a pickled checkpoint as safetensors, read by a child process that runs none of its code."""

from __future__ import annotations

from pathlib import Path

from hubtool.core.digests import sha256_file
from hubtool.core.errors import ConflictError, NotFoundError
from hubtool.core.progress import SILENT, Reporter
from hubtool.records.reports import ConvertReport


def convert(file: str | Path, *, target: str | Path | None = None, reporter: Reporter = SILENT) -> ConvertReport:
    """Write the tensors of a ``.pth``, ``.pt`` or ``.bin`` to safetensors (beside it, unless ``target`` says where).

    A training checkpoint gives its state dict, and what was left out is said. A whole pickled model is refused (6).
    """
    from hubtool.backbones import unpickle, weights

    source = Path(file)
    if not source.is_file():
        raise NotFoundError("E-WEIGHTS-404", "no such file", where=str(source))
    out = Path(target) if target is not None else source.with_suffix(".safetensors")
    if out.exists():
        raise ConflictError(
            "E-CONVERT-EXISTS", "it is there already", where=str(out), do="name another file with --out"
        )
    unpickle.convert(source, out, reporter=reporter)
    state = weights.load(out)
    return ConvertReport(
        path=str(out), sha256=sha256_file(out), num_tensors=len(state), weights_digest=weights.state_digest(state)
    )
