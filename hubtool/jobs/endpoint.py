"""``--hub`` to a hub: which one is meant, and for ``local`` the embedded one, started for as long as it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hubtool.core.progress import SILENT, Reporter
from hubtool.core.settings import PUBLIC_HUB, Settings, read_settings
from hubtool.hub.client import LOCAL, Hub, open_hub
from hubtool.records.registry import read_all


@contextmanager
def reading(
    hub: str | None = None, *, recorded: str | None = None, repo: str | None = None, reporter: Reporter = SILENT
) -> Iterator[Hub]:
    """``hub`` > HF_ENDPOINT > the hub that a registry recorded, for a backbone or a pushed ``repo`` > huggingface.co."""
    settings = read_settings()
    if repo is not None and recorded is None:
        found = (registry.published.get(repo) for registry in read_all(settings.home))
        recorded = next((published.hub for published in found if published is not None), None)
    with _opened(hub or settings.hf_endpoint or recorded or PUBLIC_HUB, settings, reporter) as opened:
        yield opened


def writing_hub(hub: str | None = None, *, ask: Callable[[], str] | None = None) -> str:
    """``hub`` > HF_ENDPOINT > what a person at the terminal answers > ``local``. ``ask`` is None where nobody sits."""
    return hub or read_settings().hf_endpoint or (ask() if ask else "") or LOCAL


@contextmanager
def writing(hub: str | None = None, *, reporter: Reporter = SILENT) -> Iterator[Hub]:
    """The hub to write to, see ``writing_hub``."""
    with _opened(writing_hub(hub), read_settings(), reporter) as opened:
        yield opened


@contextmanager
def _opened(choice: str, settings: Settings, reporter: Reporter) -> Iterator[Hub]:
    if choice != LOCAL:
        yield open_hub(choice, settings=settings, reporter=reporter)
        return
    from hubtool.server.embedded import EmbeddedHub

    with EmbeddedHub(settings.home / "hub") as embedded:
        yield open_hub(embedded.url, name=LOCAL, settings=settings, reporter=reporter)
