"""Looking after a hub from its own machine: people, tokens, checking, collecting, copying."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hubtool.core.errors import NotFoundError
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.settings import read_settings
from hubtool.records.hub import BackupReport, FsckReport, GcReport, HubToken

if TYPE_CHECKING:
    from hubtool.server.store import Store


@contextmanager
def _opened(root: Path | None, *, is_new: bool = False) -> Iterator[Store]:
    from hubtool.server.store import Store

    directory = (root or read_settings().home / "hub").expanduser()
    if not is_new and not (directory / "hub.json").exists():
        raise NotFoundError("E-HUB-ROOT", "there is no hub", where=str(directory), do="hubtool serve --root makes one")
    store = Store(directory)
    try:
        yield store
    finally:
        store.close()


def add_user(name: str, *, root: Path | None = None) -> None:
    with _opened(root, is_new=True) as store:
        store.accounts.add_user(name)


def remove_user(name: str, *, root: Path | None = None) -> None:
    """Their tokens die; their repositories stay."""
    with _opened(root) as store:
        store.accounts.remove_user(name)


def list_users(*, root: Path | None = None) -> list[dict[str, object]]:
    with _opened(root) as store:
        accounts = store.accounts
        return [
            {
                "name": name,
                "num_tokens": sum(t.is_live for t in accounts.tokens(name)),
                "grants": accounts.grants_of(name),
            }
            for name in accounts.users()
        ]


def grant(user: str, owner: str, access: Literal["read", "write"] | None, *, root: Path | None = None) -> None:
    """Let ``user`` read or write the repositories of ``owner``; None takes it back."""
    with _opened(root) as store:
        store.accounts.grant(user, owner, access)


def add_token(
    user: str,
    *,
    access: Literal["read", "write"] = "write",
    label: str = "",
    days: float | None = None,
    root: Path | None = None,
) -> tuple[str, str]:
    """(id, token). The token is not kept; this is the only time it is shown."""
    with _opened(root) as store:
        return store.accounts.add_token(user, access=access, label=label, days=days)


def list_tokens(user: str | None = None, *, root: Path | None = None) -> list[HubToken]:
    with _opened(root) as store:
        return [
            HubToken(
                id=token.id,
                user=token.user,
                access=token.access,
                label=token.label,
                created_at=token.created_at,
                expires_at=token.expires_at,
                is_live=token.is_live,
            )
            for token in store.accounts.tokens(user)
        ]


def revoke_token(token_id: str, *, root: Path | None = None) -> None:
    with _opened(root) as store:
        store.accounts.revoke_token(token_id)


def fsck(*, root: Path | None = None, reporter: Reporter = SILENT) -> FsckReport:
    from hubtool.server import upkeep

    with _opened(root) as store:
        return upkeep.fsck(store, reporter=reporter)


def gc(*, root: Path | None = None, grace_h: float = 24.0, reporter: Reporter = SILENT) -> GcReport:
    from hubtool.server import upkeep

    with _opened(root) as store:
        return upkeep.collect(store, grace_s=grace_h * 3600, reporter=reporter)


def backup(target: Path, *, root: Path | None = None, reporter: Reporter = SILENT) -> BackupReport:
    from hubtool.server import upkeep

    with _opened(root) as store:
        return upkeep.backup(store, target, reporter=reporter)
