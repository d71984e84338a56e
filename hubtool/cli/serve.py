"""serve · hub user|token|fsck|gc|backup."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal

import click

from hubtool.cli.options import AliasGroup, common, directory
from hubtool.cli.output import Output, size, table

root_option = directory("The hub's directory; default: the one behind `--hub local`.", name="--root", required=False)


@click.command()
@root_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8100, show_default=True, help="The port; 0: a free one.")
@click.option("--public-url", metavar="URL", help="How others reach it, when that differs (a proxy, 0.0.0.0).")
@click.option("--tokens", "with_tokens", is_flag=True, help="Require tokens on loopback too (elsewhere always).")
@common
def serve(out: Output, root: Path | None, host: str, port: int, public_url: str | None, with_tokens: bool) -> None:
    """Start a hub that the official Hugging Face clients, timm, transformers and git accept. Ctrl-C ends it."""
    from hubtool.jobs.serve import serve as job

    def ready(facts: dict[str, str]) -> None:
        if out.mode == "json":
            click.echo(json.dumps(facts, separators=(",", ":")))
        elif out.mode == "ids":
            click.echo(facts["url"])
        else:
            click.echo(f"hub on {facts['url']} – {facts['rights']} – files in {facts['root']}")
            out.hint(f"export HF_ENDPOINT={facts['url']}")

    job(
        root,
        host=host,
        port=port,
        public_url=public_url,
        with_tokens=with_tokens,
        on_ready=ready,
        reporter=out.reporter,
    )


@click.group(cls=AliasGroup)
def hub() -> None:
    """Look after a hub on this machine: user, token, fsck, gc, backup."""


@hub.group(cls=AliasGroup)
def user() -> None:
    """People who may push: add, list, grant, remove."""


@user.command("add")
@click.argument("name")
@root_option
@common
def user_add(out: Output, name: str, root: Path | None) -> None:
    """Add a person; NAME is also the namespace they own."""
    from hubtool.jobs.hub_admin import add_user as job

    job(name, root=root)
    out.result({"user": name}, ids=[name], human=lambda: f"added {name}")
    out.hint(f"hubtool hub token add {name}" + (f" --root {root}" if root else ""))


@user.command("remove")
@click.argument("name")
@root_option
@common
def user_remove(out: Output, name: str, root: Path | None) -> None:
    """Remove a person and their tokens. Their repositories stay."""
    from hubtool.jobs.hub_admin import remove_user as job

    job(name, root=root)
    out.result({"user": name}, ids=[name], human=lambda: f"removed {name}")


@user.command("grant")
@click.argument("name")
@click.argument("owner")
@click.option("--access", type=click.Choice(["read", "write", "none"]), default="read", help="What NAME may do there.")
@root_option
@common
def user_grant(out: Output, name: str, owner: str, access: Literal["read", "write", "none"], root: Path | None) -> None:
    """Let NAME read or write all repositories of OWNER (somebody else, or a shared namespace)."""
    from hubtool.jobs.hub_admin import grant as job

    job(name, owner, None if access == "none" else access, root=root)
    facts = {"user": name, "owner": owner, "access": access}
    out.result(facts, ids=[name], human=lambda: f"{name} on {owner}/*: {access}")


@user.command("list")
@root_option
@common
def user_list(out: Output, root: Path | None) -> None:
    """Everybody, with their live tokens and grants."""
    from hubtool.jobs.hub_admin import list_users as job

    users = job(root=root)
    rows = [(u["name"], u["num_tokens"], _grants(u["grants"])) for u in users]
    header = ("user", "live tokens", "grants")
    out.result(users, ids=[str(u["name"]) for u in users], human=lambda: table(rows, header, right=(1,)))


def _grants(grants: object) -> str:
    return " ".join(f"{owner}/*:{access}" for owner, access in grants) if isinstance(grants, list) else ""


@hub.group(cls=AliasGroup)
def token() -> None:
    """Tokens: add, list, revoke."""


@token.command("add")
@click.argument("name")
@click.option(
    "--access", type=click.Choice(["read", "write"]), default="write", show_default=True, help="What it may do."
)
@click.option("--label", default="", help="A note to know it by later.")
@click.option("--days", type=float, default=None, help="It expires after that many days; default: never.")
@root_option
@common
def token_add(
    out: Output, name: str, access: Literal["read", "write"], label: str, days: float | None, root: Path | None
) -> None:
    """Make a token for a person. It is shown once; the hub keeps only its digest."""
    from hubtool.jobs.hub_admin import add_token as job

    token_id, text = job(name, access=access, label=label, days=days, root=root)
    out.result({"id": token_id, "user": name, "token": text}, ids=[text], human=lambda: text)


@token.command("list")
@click.argument("name", required=False)
@root_option
@common
def token_list(out: Output, name: str | None, root: Path | None) -> None:
    """The tokens of one person, or of all. Never their text."""
    from hubtool.jobs.hub_admin import list_tokens as job

    tokens = job(name, root=root)
    rows = [(t.id, t.user, t.access, t.label, _day(t.expires_at), "live" if t.is_live else "dead") for t in tokens]
    header = ("id", "user", "access", "label", "expires", "state")
    out.result([t.to_dict() for t in tokens], ids=[t.id for t in tokens], human=lambda: table(rows, header))


def _day(seconds: float | None) -> str:
    return "never" if seconds is None else time.strftime("%Y-%m-%d", time.gmtime(seconds))


@token.command("revoke")
@click.argument("token_id", metavar="ID")
@root_option
@common
def token_revoke(out: Output, token_id: str, root: Path | None) -> None:
    """End a token at once; uploads under way with it are refused."""
    from hubtool.jobs.hub_admin import revoke_token as job

    job(token_id, root=root)
    out.result({"id": token_id}, ids=[token_id], human=lambda: f"revoked {token_id}")


@hub.command()
@root_option
@common
def fsck(out: Output, root: Path | None) -> int:
    """Re-hash every file, follow every reference; name what is damaged (exit 5)."""
    from hubtool.jobs.hub_admin import fsck as job

    report = job(root=root, reporter=out.reporter)
    counts = f"{report.num_repos} repositories, {report.num_objects} large files, {size(report.size_bytes)}"
    lines = [f"{f.kind}: {f.where}: {f.what}" for f in report.findings]
    verdict = "all is well" if report.is_clean else f"{len(lines)} things are damaged"
    out.result(
        report, ids=[f.where for f in report.findings], human=lambda: "\n".join([*lines, f"{counts}: {verdict}"])
    )
    return 0 if report.is_clean else 5


@hub.command()
@click.option("--grace", "grace_h", type=click.FloatRange(min=0), default=24.0, show_default=True, metavar="HOURS",
              help="Keep what was sent within that time, for a push may be under way.")  # fmt: skip
@root_option
@common
def gc(out: Output, grace_h: float, root: Path | None) -> None:
    """Remove large files that no repository refers to any more. Safe while the hub serves."""
    from hubtool.jobs.hub_admin import gc as job

    report = job(root=root, grace_h=grace_h, reporter=out.reporter)
    out.result(report, human=lambda: f"freed {size(report.freed_bytes)}; {report.num_kept} large files are in use")


@hub.command()
@click.argument("target", type=click.Path(path_type=Path), metavar="DIR")
@root_option
@common
def backup(out: Output, target: Path, root: Path | None) -> None:
    """Copy the whole hub to a new directory while it serves. `hubtool serve --root DIR` serves the copy."""
    from hubtool.jobs.hub_admin import backup as job

    report = job(target, root=root, reporter=out.reporter)
    text = f"{report.num_repos} repositories and {size(report.size_bytes)} of large files copied to {report.directory}"
    out.result(report, ids=[report.directory], human=lambda: text)
