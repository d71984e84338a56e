"""What can go wrong, and with which exit code.

The tree (exit code in brackets; ``hubtool --help`` shows the same table):

    HubtoolError
    ├── UsageError          [2]   the command line or the recipe
    ├── DataError           [3]   the user's pictures, labels, splits
    ├── NotFoundError       [4]   not found, no right to it, or offline and not here
    ├── IntegrityError      [5]   a digest differs, a file is damaged
    ├── SecurityError       [6]   refused: it could harm the machine or leak a secret
    ├── ConflictError       [7]   somebody else was first: lock, drift, moved branch
    ├── StorageError        [8]   disk full, read-only, I/O error
    ├── NumericError        [9]   NaN or Inf
    ├── NotReproducedError  [10]  a claim did not hold
    ├── UnavailableError    [75]  not reachable now, worth retrying
    └── InterruptedRun      [130 | 143]  SIGINT | SIGTERM, after saving

An error is raised where it is known and printed once, at the edge, as
``error[CODE] what – where – what to do`` and at most one ``hint:`` line.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class HubtoolError(Exception):
    """Base of every error that a user may see.

    ``code`` is stable and searchable (``E-RECIPE-404``); ``what`` says what is wrong,
    ``where`` names the file, line or field, ``do`` what to do about it, ``hint`` one more line.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, what: str, *, where: str = "", do: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.where = where
        self.do = do
        self.hint = hint
        self.is_told = False  # the command's own document on stdout tells it already

    def __str__(self) -> str:
        return " – ".join(part for part in (self.what, self.where, self.do) if part)

    def line(self) -> str:
        """The one line for a person, never more than one."""
        return " ".join(f"error[{self.code}] {self}".split())

    def as_dict(self) -> dict[str, object]:
        """The same for ``--json``."""
        fields = {"code": self.code, "what": self.what, "where": self.where, "do": self.do, "hint": self.hint}
        return {"error": {k: v for k, v in fields.items() if v} | {"exit_code": self.exit_code}}


class UsageError(HubtoolError):
    exit_code = 2


class DataError(HubtoolError):
    exit_code = 3


class NotFoundError(HubtoolError):
    exit_code = 4


class IntegrityError(HubtoolError):
    exit_code = 5


class SecurityError(HubtoolError):
    exit_code = 6


class ConflictError(HubtoolError):
    exit_code = 7


class StorageError(HubtoolError):
    exit_code = 8


class NumericError(HubtoolError):
    exit_code = 9


class NotReproducedError(HubtoolError):
    exit_code = 10


class UnavailableError(HubtoolError):
    exit_code = 75


class InterruptedRun(HubtoolError):
    """A signal ended the run after its checkpoint was saved."""

    exit_code = 130

    def __init__(self, signal_number: int, what: str, *, do: str = "") -> None:
        super().__init__("E-SIGNAL", what, do=do)
        self.signal_number = signal_number

    @property
    def process_exit_code(self) -> int:
        return 128 + self.signal_number


_STORAGE_CODES = {
    errno.ENOSPC: ("E-DISK-FULL", "the disk is full", "free some space and run the same command again"),
    errno.EDQUOT: ("E-DISK-QUOTA", "the disk quota is used up", "free some space and run the same command again"),
    errno.EROFS: ("E-DISK-READONLY", "the file system is read-only", "choose another directory"),
    errno.EACCES: ("E-DISK-RIGHT", "no right to write or read", "choose another directory or change its rights"),
    errno.EPERM: ("E-DISK-RIGHT", "no right to write or read", "choose another directory or change its rights"),
    errno.EIO: ("E-DISK-IO", "the disk reports an I/O error", "check the disk; the last checkpoint is intact"),
    errno.EFBIG: ("E-DISK-LIMIT", "the file size limit is reached", "raise the limit (ulimit -f)"),
    errno.ENAMETOOLONG: ("E-DISK-NAME", "the file name is too long", "choose a shorter directory name"),
    errno.EMFILE: ("E-DISK-FILES", "too many open files", "raise the limit (ulimit -n)"),
}


def from_os_error(error: OSError, where: str = "") -> StorageError:
    """Translate an ``OSError`` of our own reading or writing; the file's name is kept, its cause named."""
    code, what, do = _STORAGE_CODES.get(
        error.errno or 0, ("E-DISK", error.strerror or type(error).__name__, "check the disk and its rights")
    )
    return StorageError(code, what, where=where or str(error.filename or ""), do=do)
