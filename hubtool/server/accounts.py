"""What git cannot hold: people, their tokens, who sees which repository, and how often it was downloaded.

One SQLite file, ``hub.sqlite``. A token is kept as its sha256 only (it has 256 random bits, so no slow hash is needed).
A repository without a row is private: losing the file locks doors, it opens none.
"""

from __future__ import annotations

import secrets
import sqlite3
import string
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hubtool.core.digests import sha256_bytes
from hubtool.core.errors import ConflictError, NotFoundError, StorageError, UsageError
from hubtool.core.ids import RepoId

Right = Literal["read", "write"]
Visibility = Literal["public", "private"]
Gated = Literal["off", "auto"]
_NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "afs",
    "9p",
    "lustre",
    "ceph",
    "glusterfs",
    "fuse.sshfs",
}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY COLLATE NOCASE, created_at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tokens (id TEXT PRIMARY KEY, sha256 TEXT UNIQUE NOT NULL, user TEXT NOT NULL COLLATE NOCASE,
  access TEXT NOT NULL, label TEXT NOT NULL, created_at REAL NOT NULL, expires_at REAL, revoked_at REAL) STRICT;
CREATE TABLE IF NOT EXISTS grants (user TEXT NOT NULL COLLATE NOCASE, owner TEXT NOT NULL COLLATE NOCASE,
  access TEXT NOT NULL, PRIMARY KEY (user, owner)) STRICT;
CREATE TABLE IF NOT EXISTS repos (kind TEXT NOT NULL, id TEXT NOT NULL COLLATE NOCASE, visibility TEXT NOT NULL,
  gated TEXT NOT NULL DEFAULT 'off', created_at REAL NOT NULL, downloads INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (kind, id)) STRICT;
CREATE TABLE IF NOT EXISTS moves (kind TEXT NOT NULL, old TEXT NOT NULL COLLATE NOCASE, new TEXT NOT NULL COLLATE NOCASE,
  PRIMARY KEY (kind, old)) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Token:
    id: str
    user: str
    access: str
    label: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    @property
    def is_live(self) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > time.time())


@dataclass(frozen=True, slots=True)
class RepoSettings:
    visibility: str = "private"
    gated: str = "off"
    created_at: float = 0.0
    downloads: int = 0


class Accounts:
    """Thread-safe; several processes may open one file. ``close`` when done."""

    def __init__(self, root: Path) -> None:
        self._path = root / "hub.sqlite"
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(self._path, timeout=30, check_same_thread=False, isolation_level=None)
            self._path.chmod(0o600)
            # WAL needs shared memory, which a network file system does not give (https://sqlite.org/wal.html).
            self._db.execute(f"PRAGMA journal_mode={'DELETE' if is_network(root) else 'WAL'}")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise StorageError(
                "E-HUB-ACCOUNTS", f"the accounts cannot be opened: {error}", where=str(self._path)
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise StorageError("E-HUB-ACCOUNTS", f"the accounts cannot be written: {error}") from error

    def _rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    # People

    def add_user(self, name: str) -> None:
        RepoId(f"{name}/x")  # a name is a namespace: the same grammar
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM users WHERE name = ?", (name,)).fetchone():
                raise ConflictError("E-HUB-USER", f"the user {name!r} is there already")
            db.execute("INSERT INTO users VALUES (?, ?)", (name, time.time()))

    def remove_user(self, name: str) -> None:
        """Their tokens die with them; their repositories stay."""
        with self._transaction() as db:
            if not db.execute("DELETE FROM users WHERE name = ?", (name,)).rowcount:
                raise NotFoundError("E-HUB-USER", f"there is no user {name!r}")
            db.execute("DELETE FROM tokens WHERE user = ?", (name,))
            db.execute("DELETE FROM grants WHERE user = ?", (name,))

    def users(self) -> list[str]:
        return [str(row[0]) for row in self._rows("SELECT name FROM users ORDER BY name")]

    def grant(self, user: str, owner: str, access: Right | None) -> None:
        """Let ``user`` read or write everything below ``owner``; None takes it back."""
        RepoId(f"{owner}/x")
        with self._transaction() as db:
            if not db.execute("SELECT 1 FROM users WHERE name = ?", (user,)).fetchone():
                raise NotFoundError("E-HUB-USER", f"there is no user {user!r}")
            db.execute("DELETE FROM grants WHERE user = ? AND owner = ?", (user, owner))
            if access is not None:
                db.execute("INSERT INTO grants VALUES (?, ?, ?)", (user, owner, access))

    def grant_of(self, user: str, owner: str) -> str | None:
        rows = self._rows("SELECT access FROM grants WHERE user = ? AND owner = ?", user, owner)
        return str(rows[0][0]) if rows else None

    def grants_of(self, user: str) -> list[tuple[str, str]]:
        return [
            (str(o), str(a))
            for o, a in self._rows("SELECT owner, access FROM grants WHERE user = ? ORDER BY owner", user)
        ]

    # Tokens

    def add_token(
        self, user: str, *, access: Right = "write", label: str = "", days: float | None = None
    ) -> tuple[str, str]:
        """(id, the token itself): the token is shown once and never again."""
        if days is not None and days <= 0:
            raise UsageError("E-HUB-TOKEN", "a token lives at least a moment", do="give a positive number of days")
        text, token_id, now = _new_token(), secrets.token_hex(6), time.time()
        with self._transaction() as db:
            row = db.execute("SELECT name FROM users WHERE name = ?", (user,)).fetchone()
            if row is None:
                raise NotFoundError(
                    "E-HUB-USER", f"there is no user {user!r}", do=f"add it: hubtool hub user add {user}"
                )
            expires_at = None if days is None else now + days * 86400
            db.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                (token_id, sha256_bytes(text.encode()), row[0], access, label[:200], now, expires_at),
            )
        return token_id, text

    def find_token(self, text: str) -> Token | None:
        """The token whose text this is, dead or alive."""
        rows = self._rows(f"{_SELECT_TOKEN} WHERE sha256 = ?", sha256_bytes(text.encode()))
        return Token(*rows[0]) if rows else None  # type: ignore[arg-type]

    def token_by_id(self, token_id: str) -> Token | None:
        rows = self._rows(f"{_SELECT_TOKEN} WHERE id = ?", token_id)
        return Token(*rows[0]) if rows else None  # type: ignore[arg-type]

    def tokens(self, user: str | None = None) -> list[Token]:
        where, values = (" WHERE user = ?", (user,)) if user else ("", ())
        return [Token(*row) for row in self._rows(f"{_SELECT_TOKEN}{where} ORDER BY created_at", *values)]  # type: ignore[arg-type]

    def revoke_token(self, token_id: str) -> None:
        with self._transaction() as db:
            sql = "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?"
            if not db.execute(sql, (time.time(), token_id)).rowcount:
                raise NotFoundError("E-HUB-TOKEN", f"there is no token {token_id!r}", do="see: hubtool hub token list")

    # Repositories

    def repo(self, kind: str, repo_id: str) -> RepoSettings:
        rows = self._rows(
            "SELECT visibility, gated, created_at, downloads FROM repos WHERE kind = ? AND id = ?", kind, repo_id
        )
        return RepoSettings(*rows[0]) if rows else RepoSettings()  # type: ignore[arg-type]

    def enter_repo(self, kind: str, repo_id: str, visibility: str) -> None:
        sql = "INSERT OR REPLACE INTO repos (kind, id, visibility, created_at) VALUES (?, ?, ?, ?)"
        with self._transaction() as db:
            db.execute(sql, (kind, repo_id, visibility, time.time()))
            db.execute("DELETE FROM moves WHERE kind = ? AND old = ?", (kind, repo_id))

    def change_repo(self, kind: str, repo_id: str, *, visibility: str | None = None, gated: str | None = None) -> None:
        with self._transaction() as db:
            sql = "INSERT OR IGNORE INTO repos (kind, id, visibility, created_at) VALUES (?, ?, 'private', ?)"
            db.execute(sql, (kind, repo_id, time.time()))
            sql = "UPDATE repos SET visibility = coalesce(?, visibility), gated = coalesce(?, gated) WHERE kind = ? AND id = ?"
            db.execute(sql, (visibility, gated, kind, repo_id))

    def move_repo(self, kind: str, old: str, new: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM repos WHERE kind = ? AND id = ?", (kind, new))
            db.execute("UPDATE repos SET id = ? WHERE kind = ? AND id = ?", (new, kind, old))
            db.execute("UPDATE moves SET new = ? WHERE kind = ? AND new = ?", (new, kind, old))
            db.execute("DELETE FROM moves WHERE kind = ? AND old = ?", (kind, new))
            if old.lower() != new.lower():
                db.execute("INSERT OR REPLACE INTO moves VALUES (?, ?, ?)", (kind, old, new))

    def moved_to(self, kind: str, old: str) -> str | None:
        """Where a repository that was once called ``old`` is now."""
        rows = self._rows("SELECT new FROM moves WHERE kind = ? AND old = ?", kind, old)
        return str(rows[0][0]) if rows else None

    def remove_repo(self, kind: str, repo_id: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM repos WHERE kind = ? AND id = ?", (kind, repo_id))
            db.execute("DELETE FROM moves WHERE kind = ? AND new = ?", (kind, repo_id))

    def count_downloads(self, kind: str, repo_id: str, count: int) -> None:
        with self._transaction() as db:
            db.execute("UPDATE repos SET downloads = downloads + ? WHERE kind = ? AND id = ?", (count, kind, repo_id))

    def backup(self, target: Path) -> None:
        """A consistent copy, also while others write."""
        copy = sqlite3.connect(target)
        try:
            with self._lock:
                self._db.backup(copy)
        finally:
            copy.close()

    def check(self) -> str:
        """``ok``, or what SQLite finds damaged."""
        return str(self._rows("PRAGMA integrity_check")[0][0])

    def close(self) -> None:
        with self._lock:
            self._db.close()


_SELECT_TOKEN = "SELECT id, user, access, label, created_at, expires_at, revoked_at FROM tokens"


def is_network(path: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether ``path`` lies on a network file system, as far as Linux tells; elsewhere False."""
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    best, kind = -1, ""
    for line in lines:
        words = line.split()
        if len(words) > 2 and path.resolve().is_relative_to(words[1]) and len(words[1]) > best:
            best, kind = len(words[1]), words[2]
    return kind in _NETWORK_FILE_SYSTEMS


def _new_token() -> str:
    """``hf_`` and 40 letters and digits (238 bits), of each kind at least one: so every scanner for secrets knows it."""
    alphabet = string.ascii_letters + string.digits
    while True:
        body = "".join(secrets.choice(alphabet) for _ in range(40))
        if not (body.isalpha() or body == body.lower() or body == body.upper()):
            return f"hf_{body}"
