"""login · logout · whoami · cache."""

from __future__ import annotations

import click

from hubtool.cli.options import AliasGroup, common, hub_option
from hubtool.cli.output import Output, is_human, size, table


@click.command()
@hub_option("The hub the token is for; default: huggingface.co.")
@common
def login(out: Output, hub: str | None) -> None:
    """Keep a token for one hub (never sent to another). It is read from the terminal or from standard input."""
    import sys

    from hubtool.jobs.login import login as job

    token = click.prompt("token", hide_input=True, err=True) if is_human() else sys.stdin.readline()
    report = job(token.strip(), hub=hub)
    out.result(report, ids=[report["user"]], human=lambda: f"logged in to {report['endpoint']} as {report['user']}")


@click.command()
@hub_option("The hub whose token is forgotten.")
@common
def logout(out: Output, hub: str | None) -> None:
    """Forget the token of one hub."""
    from hubtool.jobs.login import logout as job

    report = job(hub=hub)
    out.result(report, ids=[report["endpoint"]], human=lambda: f"logged out of {report['endpoint']}")


@click.command()
@hub_option("The hub that is asked.")
@common
def whoami(out: Output, hub: str | None) -> None:
    """Who a hub takes you for."""
    from hubtool.jobs.login import whoami as job

    report = job(hub=hub)
    out.result(report, ids=[report["user"]], human=lambda: f"{report['user']} on {report['endpoint']}")


@click.group(cls=AliasGroup)
def cache() -> None:
    """What hubtool keeps to save time: fetched files, activations. list, prune."""


@cache.command("list")
@common
def cache_list(out: Output) -> None:
    """Each entry with its size and last use."""
    from hubtool.jobs.cache import list_cache

    entries = list_cache()
    rows = [(e["kind"], e["name"], size(float(e["size_bytes"])), e["last_used"]) for e in entries]
    total = sum(int(e["size_bytes"]) for e in entries)
    out.result(
        entries,
        ids=[str(e["name"]) for e in entries],
        human=lambda: (
            (table(rows, ("kind", "name", "size", "last used"), right=(2,)) + f"\n{size(total)} in all")
            if rows
            else "the cache is empty"
        ),
    )


@cache.command("prune")
@click.option("--older-than", type=int, default=0, metavar="DAYS", help="Only what was not used for that long.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def cache_prune(out: Output, older_than: int, yes: bool) -> None:
    """Remove cached files; shows what it frees before it does. Runs, packages and the registry stay."""
    from hubtool.jobs.cache import list_cache, prune_cache

    entries = list_cache(older_than_days=older_than)
    freed = sum(int(e["size_bytes"]) for e in entries)
    click.echo(f"{len(entries)} entries, {size(freed)}", err=True)
    if entries and not out.confirm("remove them?", yes=yes):
        click.echo("nothing removed (--yes removes them)", err=True)
        entries = []
    removed = prune_cache(entries)
    report = {"removed": len(removed), "freed_bytes": sum(int(e["size_bytes"]) for e in removed)}
    out.result(report, ids=[str(e["name"]) for e in removed], human=lambda: f"removed {len(removed)} entries")
