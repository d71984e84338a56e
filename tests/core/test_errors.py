from __future__ import annotations

import errno

import pytest

from hubtool.core.errors import DataError, HubtoolError, StorageError, from_os_error


def test_an_error_is_one_line_with_its_code() -> None:
    error = DataError("E-DATA-DECODE", "3 of 1200 files\ncannot be decoded", where="a/7.jpg", do="mend them")
    assert error.line() == "error[E-DATA-DECODE] 3 of 1200 files cannot be decoded – a/7.jpg – mend them"
    assert error.as_dict()["error"] == {
        "code": "E-DATA-DECODE",
        "what": "3 of 1200 files\ncannot be decoded",
        "where": "a/7.jpg",
        "do": "mend them",
        "exit_code": 3,
    }


def test_exit_codes_are_the_contract() -> None:
    codes = {cls.__name__: cls.exit_code for cls in HubtoolError.__subclasses__()}
    assert codes == {
        "UsageError": 2,
        "DataError": 3,
        "NotFoundError": 4,
        "IntegrityError": 5,
        "SecurityError": 6,
        "ConflictError": 7,
        "StorageError": 8,
        "NumericError": 9,
        "NotReproducedError": 10,
        "UnavailableError": 75,
        "InterruptedRun": 130,
    }


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EFBIG])
def test_os_errors_are_translated(number: int) -> None:
    error = from_os_error(OSError(number, "x", "checkpoints/a"))
    assert isinstance(error, StorageError)
    assert error.code.startswith("E-DISK-")
    assert "checkpoints/a" in error.line()
