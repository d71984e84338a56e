"""hubtool doctor: what this machine has, and what would not work on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys

from hubtool.core.settings import read_settings
from hubtool.records.reports import CheckFinding, VerifyReport

_NEEDED = ("torch", "torchvision", "timm", "huggingface_hub", "hf-xet", "safetensors", "tensorboard", "wandb", "numpy")
_OPTIONAL = {"transformers": "hf: models in transformers format need it (pip install 'hubtool[transformers]')"}
_LOW_DISK_BYTES = 5 * 10**9


def doctor() -> VerifyReport:
    """Look at versions, device, disk, programs and settings; no network is used."""
    findings = (
        CheckFinding(name="python", is_ok=sys.version_info >= (3, 11), detail=platform.python_version()),
        *(_version(name) for name in _NEEDED),
        *(_version(name, missing_is_ok=True, hint=hint) for name, hint in _OPTIONAL.items()),
        _device(),
        _home(),
        _program("git", "the hub keeps its repositories in git", is_needed=True),
        _program("git-lfs", "only to clone from a hub with git", is_needed=False),
        _hub(),
    )
    return VerifyReport(target="this machine", is_ok=all(f.is_ok for f in findings), findings=findings)


def _version(name: str, *, missing_is_ok: bool = False, hint: str = "") -> CheckFinding:
    try:
        return CheckFinding(name=name, is_ok=True, detail=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return CheckFinding(name=name, is_ok=missing_is_ok, detail=f"not installed; {hint}".rstrip("; "))


def _device() -> CheckFinding:
    from hubtool.training.numerics import describe_device

    return CheckFinding(name="device", is_ok=True, detail=f"{describe_device('auto')}, {os.cpu_count()} CPUs")


def _home() -> CheckFinding:
    home = read_settings().home
    place = next(p for p in (home, *home.parents) if p.exists())
    free_bytes = shutil.disk_usage(place).free
    is_ok = os.access(place, os.W_OK) and free_bytes >= _LOW_DISK_BYTES
    return CheckFinding(name="home", is_ok=is_ok, detail=f"{home}, {free_bytes / 1e9:.0f} GB free")


def _program(name: str, why: str, *, is_needed: bool) -> CheckFinding:
    path = shutil.which(name)
    return CheckFinding(name=name, is_ok=bool(path) or not is_needed, detail=path or f"not found: {why}")


def _hub() -> CheckFinding:
    settings = read_settings()
    parts = [
        f"HF_ENDPOINT {settings.hf_endpoint}" if settings.hf_endpoint else "huggingface.co to read, local to write"
    ]
    if settings.is_offline:
        parts.append("HF_HUB_OFFLINE is set: nothing is fetched")
    parts.append("HF_TOKEN is set" if settings.hf_token else "no HF_TOKEN")
    return CheckFinding(name="hub", is_ok=True, detail="; ".join(parts))
