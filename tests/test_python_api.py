"""The Python API: the verbs of the command line, typed and documented, imported on first use."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import hubtool


@pytest.mark.parametrize("verb", hubtool._VERBS)
def test_each_verb_is_a_documented_function(verb: str) -> None:
    function = getattr(hubtool, verb)
    assert inspect.isfunction(function)
    assert function.__doc__
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty
    assert verb in dir(hubtool)


def test_what_is_no_verb_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="finetun"):
        hubtool.finetun  # noqa: B018


def test_importing_hubtool_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import hubtool; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stdout
    assert "torch" not in modules
    assert "pydantic" not in modules
