"""What lies below the root of a hub, as one value. It knows no HTTP.

hub.json  hub.sqlite  secret      what this directory is; people and rights; the key of signed links (0600)
repos/    objects/    xorbs/      git repositories; large files; the chunks of those that came in chunks
incoming/ trash/      logs/       being received; being removed; the access log
hooks/                            what git runs before a push counts
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
from pathlib import Path

from hubtool.core.errors import StorageError
from hubtool.core.files import make_dirs, write_bytes, write_json
from hubtool.server import received
from hubtool.server.accounts import Accounts
from hubtool.server.gitprocess import keep_open, let_go
from hubtool.server.objects import ObjectStore
from hubtool.server.repos import Repos
from hubtool.server.signing import Signer
from hubtool.server.xorbs import Xorbs

SCHEMA = "hubtool/hub/v1"


class Store:
    """The parts, opened. Several processes may open one root; ``close`` when done."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        make_dirs(self.root)
        _check_schema(self.root)
        self.xorbs = Xorbs(self.root)
        self.objects = ObjectStore(self.root, self.xorbs)
        self.repos = Repos(self.root)
        self.accounts = Accounts(self.root)
        self.signer = Signer(_secret(self.root))
        make_dirs(self.root / "logs")
        received.install(self.root)
        self._presence = self._enter()
        self._downloads: dict[tuple[str, str], int] = {}
        self._downloads_lock = threading.Lock()

    def _enter(self) -> int:
        """Say that somebody works here, for as long as this process or a git child of it lives.

        Whoever comes first knows that every lock file of git was left by the dead, and removes them: git itself would
        refuse each push until a person does.
        """
        fd = os.open(self.root / "present.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for repo in self.repos:
                repo.git.drop_locks()
        except BlockingIOError:
            pass  # others are here
        fcntl.flock(fd, fcntl.LOCK_SH)
        keep_open(fd)
        return fd

    def count_download(self, kind: str, repo_id: str) -> None:
        """Counted in memory; ``flush`` writes the sums. A kill loses a few, which nobody's work depends on."""
        with self._downloads_lock:
            self._downloads[kind, repo_id] = self._downloads.get((kind, repo_id), 0) + 1
            is_due = sum(self._downloads.values()) >= 50
        if is_due:
            self.flush()

    def flush(self) -> None:
        with self._downloads_lock:
            counts, self._downloads = self._downloads, {}
        for (kind, repo_id), count in counts.items():
            self.accounts.count_downloads(kind, repo_id, count)

    def close(self) -> None:
        self.flush()
        self.accounts.close()
        let_go(self._presence)


def _check_schema(root: Path) -> None:
    path = root / "hub.json"
    if not path.exists():
        write_json(path, {"schema": SCHEMA})
        return
    try:
        schema = json.loads(path.read_bytes()).get("schema")
    except (OSError, ValueError, AttributeError) as error:
        raise StorageError("E-HUB-ROOT", "hub.json cannot be read", where=str(path)) from error
    if schema != SCHEMA:
        raise StorageError("E-HUB-ROOT", f"written by another version of hubtool ({schema!r})", where=str(path))


def _secret(root: Path) -> bytes:
    path = root / "secret"
    if not path.exists():
        fresh = path.with_name(f"secret-{secrets.token_hex(6)}")
        write_bytes(fresh, secrets.token_bytes(32), mode=0o600)
        try:
            path.hardlink_to(fresh)  # two processes that start together agree on the first
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_bytes()
