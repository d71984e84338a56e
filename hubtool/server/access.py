"""Who is asking, and whether they may. Each route names one rule; nothing is allowed without one.

| rule   | who passes                                                                     |
|--------|--------------------------------------------------------------------------------|
| ANYONE | everybody; the answer depends on no repository, or shows only what they may see |
| PERSON | whoever shows a live token                                                     |
| SEE    | who may know that the repository exists: everybody if public, else its readers |
| READ   | who may read its files: as SEE; a gated repository asks for a token as well    |
| WRITE  | its owner and writers, with a write token                                      |
| OWN    | its owner, with a write token                                                  |
| NAMED  | decided in the endpoint by ``Access.require``: the repository stands in the body |
| SIGNED | whoever holds the signed, expiring link; the endpoint checks it                |

A stranger's private repository is answered exactly like one that does not exist.
A hub is *open* when it serves one person on loopback: then every caller is that person.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hubtool.core.errors import NotFoundError, SecurityError
from hubtool.core.ids import RepoId
from hubtool.server.accounts import RepoSettings
from hubtool.server.refusals import BAD_CREDENTIALS, Refusal
from hubtool.server.repos import Repo
from hubtool.server.store import Store

LOCAL_USER = "local"


class Rule(Enum):
    ANYONE = "anyone"
    PERSON = "person"
    SEE = "see"
    READ = "read"
    WRITE = "write"
    OWN = "own"
    NAMED = "named"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class Caller:
    """``name`` None is a stranger. ``token_id`` is empty on an open hub."""

    name: str | None
    can_write: bool = False
    token_id: str = ""
    label: str = ""


STRANGER = Caller(None)


class Access:
    """Applies the rules to a store."""

    def __init__(self, store: Store, *, is_open: bool) -> None:
        self.store = store
        self.is_open = is_open

    def identify(self, authorization: str | None) -> Caller:
        """Raises Refusal 401 for a token that is unknown, expired or revoked, on every route."""
        if self.is_open:
            return Caller(LOCAL_USER, can_write=True, label="open hub")
        text = _token_text(authorization)
        if not text:
            return STRANGER
        token = self.store.accounts.find_token(text)
        if token is None or not token.is_live:
            raise Refusal(401, BAD_CREDENTIALS, code="E-HUB-TOKEN", headers=CHALLENGE)
        return Caller(token.user, can_write=token.access == "write", token_id=token.id, label=token.label)

    def caller_of(self, token_id: str, user: str) -> Caller:
        """The caller a signed link was made for; raises Refusal 401 when the token died since."""
        if self.is_open:
            return Caller(LOCAL_USER, can_write=True)
        token = self.store.accounts.token_by_id(token_id)
        if token is None or not token.is_live or token.user.lower() != user.lower():
            raise Refusal(401, BAD_CREDENTIALS, code="E-HUB-TOKEN", headers=CHALLENGE)
        return Caller(token.user, can_write=token.access == "write", token_id=token.id)

    def admit(self, caller: Caller, facts: dict[str, Any], rule: Rule) -> tuple[Caller, Repo]:
        """Whom a signed link or token was made for, and its repository, if they still pass ``rule`` there.

        One made for a stranger opens what a stranger may read. Raises Refusal, NotFoundError or SecurityError.
        """
        is_stranger = not facts["token"] and not self.is_open
        if is_stranger and rule is not Rule.READ:
            raise SecurityError("E-HUB-SIGNATURE", "the link is not valid")
        if not is_stranger:
            caller = self.caller_of(facts["token"], facts["user"])
        kind, _, repo_id = facts["repo"].partition("/")
        return caller, self.require(caller, rule, kind, RepoId(repo_id))

    def level(self, caller: Caller, owner: str) -> int:
        """0 a stranger, 1 reader, 2 writer, 3 owner of everything below ``owner``."""
        if self.is_open:
            return 3
        if caller.name is None:
            return 0
        if caller.name.lower() == owner.lower():
            return 3
        return {"read": 1, "write": 2}.get(self.store.accounts.grant_of(caller.name, owner) or "", 0)

    def settings(self, repo: Repo) -> RepoSettings:
        return self.store.accounts.repo(repo.kind, repo.id)

    def may_see(self, caller: Caller, repo: Repo) -> bool:
        return self.settings(repo).visibility == "public" or self.level(caller, repo.id.owner) > 0

    def find(self, caller: Caller, rule: Rule, kind: str, repo_id: RepoId) -> Repo:
        """The repository, if the caller passes ``rule``; raises Refusal or NotFoundError."""
        repo = self.store.repos.find(kind, repo_id)
        if not self.may_see(caller, repo):
            raise NotFoundError("E-HUB-REPO", "Repository not found")
        self._require(caller, rule, repo)
        return repo

    def moved(self, caller: Caller, kind: str, repo_id: RepoId) -> Repo | None:
        """The repository that was once called ``repo_id``, if the caller may know of it."""
        new = self.store.accounts.moved_to(kind, repo_id)
        if new is None:
            return None
        with contextlib.suppress(NotFoundError):
            repo = self.store.repos.find(kind, RepoId(new))
            return repo if self.may_see(caller, repo) else None
        return None

    def require(self, caller: Caller, rule: Rule, kind: str, repo_id: RepoId) -> Repo:
        """The same for a repository that the body names (rule NAMED)."""
        return self.find(caller, rule, kind, repo_id)

    def require_namespace(self, caller: Caller, owner: str) -> None:
        """Whether the caller may make repositories below ``owner``."""
        if caller.name is None:
            raise _unauthenticated()
        if not caller.can_write:
            raise Refusal(403, "This token may only read", code="E-HUB-RIGHT")
        if self.level(caller, owner) < 2:
            raise Refusal(403, f"You have no right to write below {owner}/", code="E-HUB-RIGHT")

    def _require(self, caller: Caller, rule: Rule, repo: Repo) -> None:
        level = self.level(caller, repo.id.owner)
        if rule is Rule.READ and level == 0 and caller.name is None and self.settings(repo).gated != "off":
            message = f"Access to {repo.kind[:-1]} {repo.id} is restricted. You must be authenticated to access it."
            raise Refusal(401, message, code="E-HUB-GATED", hub_code="GatedRepo", headers=CHALLENGE)
        needed = {Rule.WRITE: 2, Rule.OWN: 3}.get(rule, 0)
        if not needed:
            return
        if caller.name is None:
            raise _unauthenticated()
        if not caller.can_write:
            raise Refusal(403, "This token may only read", code="E-HUB-RIGHT")
        if level < needed:
            raise Refusal(403, f"You have no right to change {repo.id}", code="E-HUB-RIGHT")


CHALLENGE = {"WWW-Authenticate": 'Basic realm="hubtool", charset="UTF-8"'}


def _unauthenticated() -> Refusal:
    return Refusal(401, "A token is needed for this", code="E-HUB-TOKEN", headers=CHALLENGE)


def _token_text(authorization: str | None) -> str:
    """The token of a Bearer header, or the password of a Basic one (git sends ``user:token``)."""
    scheme, _, value = (authorization or "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        user, _, password = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return password or user
