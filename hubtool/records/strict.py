"""The base of every record: frozen, keyword-only, unknown keys refused; JSON in and out with our errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from hubtool.core.digests import canonical_json, sha256_bytes
from hubtool.core.errors import HubtoolError, IntegrityError, NotFoundError
from hubtool.core.files import write_bytes

_MAX_JSON_BYTES = 1 << 30


class Record(BaseModel):
    """A value that is written down. Equal values have equal bytes: ``to_json`` is canonical."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, populate_by_name=True, ser_json_inf_nan="constants"
    )

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    def to_json(self) -> bytes:
        return canonical_json(self.to_dict())

    def digest(self) -> str:
        """sha256 of the canonical JSON."""
        return sha256_bytes(self.to_json())

    def write(self, path: Path) -> None:
        write_bytes(path, self.to_json() + b"\n")

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Self:
        """Parse; raises IntegrityError naming the first bad field."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            problem = error.errors()[0]
            if problem["loc"] == ("schema",) and problem["type"] == "literal_error":
                raise IntegrityError(
                    "E-RECORD",
                    f"written as {problem['input']!a}, this hubtool reads {problem['ctx']['expected']}",
                    where=where,
                    do="use the hubtool that wrote it, or a newer one",
                ) from error
            raise IntegrityError(
                "E-RECORD", f"not a valid {cls.__name__}: {first_problem(error)}", where=where
            ) from error

    @classmethod
    def read(cls, path: Path) -> Self:
        try:
            if path.stat().st_size > _MAX_JSON_BYTES:
                raise IntegrityError("E-RECORD-SIZE", "the file is too large", where=str(path))
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError("E-RECORD-404", "file not found", where=str(path)) from error
        return cls.from_json(data, str(path))


def first_problem(error: ValidationError) -> str:
    """``train.optimizer.lr: expected a number, got 'fast'``: the path of the bad leaf and what is wrong there."""
    problem = error.errors()[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, HubtoolError):
        return str(cause)
    path = ".".join(str(part) for part in problem["loc"])
    return f"{path}: {problem['msg']}" if path else problem["msg"]
