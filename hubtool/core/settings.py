"""The one reader of the process environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PUBLIC_HUB = "https://huggingface.co"
TORCHVISION_URL = "https://download.pytorch.org/models"

PACKAGE = Path(__file__).parents[1]
BUNDLED = PACKAGE / "bundled"


def shipped(name: str) -> Path:
    """A file or directory that travels with hubtool: inside the wheel, or at the top of the repository when run from there."""
    inside = BUNDLED / name
    return inside if inside.exists() else PACKAGE.parent / name


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment says; an unset variable gives the default in brackets.

    ``home`` HUBTOOL_HOME (~/.local/share/hubtool) · ``hf_endpoint`` HF_ENDPOINT · ``hf_token`` HF_TOKEN ·
    ``hf_cache`` HF_HUB_CACHE, HF_HOME (~/.cache/huggingface/hub) · ``is_offline`` HF_HUB_OFFLINE ·
    ``torchvision_url`` HUBTOOL_TORCHVISION_URL · ``wandb_api_key`` WANDB_API_KEY · ``wandb_url`` WANDB_BASE_URL ·
    ``is_debug`` HUBTOOL_DEBUG ·
    ``is_plain`` NO_COLOR · ``torchrun_rank`` RANK, where torchrun started this process (TORCHELASTIC_RUN_ID).
    """

    home: Path
    hf_endpoint: str | None
    hf_token: str | None
    hf_home: Path
    hf_cache: Path
    is_offline: bool
    torchvision_url: str
    wandb_api_key: str | None
    wandb_mode: str | None
    wandb_url: str | None
    is_debug: bool
    is_plain: bool
    torchrun_rank: int | None = None


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read them now; nothing is remembered, so a test may change a variable between two calls."""
    env = os.environ if environ is None else environ
    user_data = Path(env.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    user_cache = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    hf_home = Path(env.get("HF_HOME") or user_cache / "huggingface").expanduser()
    return Settings(
        home=Path(env.get("HUBTOOL_HOME") or user_data / "hubtool").expanduser().absolute(),
        hf_endpoint=(env.get("HF_ENDPOINT") or "").rstrip("/") or None,
        hf_token=env.get("HF_TOKEN") or None,
        hf_home=hf_home,
        hf_cache=Path(env.get("HF_HUB_CACHE") or hf_home / "hub").expanduser(),
        is_offline=_is_on(env.get("HF_HUB_OFFLINE")),
        torchvision_url=(env.get("HUBTOOL_TORCHVISION_URL") or TORCHVISION_URL).rstrip("/"),
        wandb_api_key=env.get("WANDB_API_KEY") or None,
        wandb_mode=env.get("WANDB_MODE") or None,
        wandb_url=(env.get("WANDB_BASE_URL") or "").rstrip("/") or None,
        is_debug=_is_on(env.get("HUBTOOL_DEBUG")),
        is_plain=bool(env.get("NO_COLOR")),
        torchrun_rank=int(env.get("RANK", "0")) if env.get("TORCHELASTIC_RUN_ID") else None,
    )


def place_caches(settings: Settings) -> None:
    """Caches of W&B and matplotlib go below HUBTOOL_HOME, and W&B neither talks nor reports errors, unless the user's
    environment says otherwise. Before the library is imported: both read it once."""
    cache = settings.home / "cache"
    chosen = {name: str(cache / "wandb") for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")}
    chosen |= {"WANDB_ARTIFACT_DIR": str(cache / "wandb" / "artifacts"), "MPLCONFIGDIR": str(cache / "matplotlib")}
    for name, value in (chosen | {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}).items():
        os.environ.setdefault(name, value)
    # W&B's helper process of a parent would outlive this process when it is killed, and hold its run as "in use".
    os.environ.pop("WANDB_SERVICE", None)


def _is_on(value: str | None) -> bool:
    return (value or "").strip().lower() in ("1", "true", "yes", "on")
