"""pack · push · card · verify · lint · reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubtool.cli.backbones import findings
from hubtool.cli.options import common, directory, hub_option
from hubtool.cli.output import Output, is_human, size, table
from hubtool.cli.text import wrapped

if TYPE_CHECKING:
    from hubtool.records.reports import PushPlan, ReproduceReport

_IMAGES = click.option("--with-images", is_flag=True, help="Let logs and plots that show pictures go out.")
_NAMES = click.option("--with-names", is_flag=True, help="Let the file names of your data go out.")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@directory("Where the package goes; default: RUN/package.", name="--out", required=False)
@_IMAGES
@_NAMES
@common
def pack(out: Output, run: Path, out_dir: Path | None, with_images: bool, with_names: bool) -> None:
    """Make a directory ready to push: safetensors, config, card, evidence, logs, digests."""
    from hubtool.jobs.pack import pack as job

    report = job(run, out=out_dir, with_images=with_images, with_names=with_names, reporter=out.reporter)

    def human() -> str:
        return (
            f"packed: {report.package}\n  {report.num_files} files, {size(report.size_bytes)}, layout {report.layout}\n"
            f"  weights {report.weights_digest[:16]}"
        )

    out.result(report, ids=[report.package], human=human)
    out.hint(f"hubtool push {report.package} OWNER/NAME --hub local")


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="RUN|PACKAGE")
@click.argument("repo", metavar="OWNER/NAME")
@hub_option("Where to; default: HF_ENDPOINT, else you are asked, else `local`.")
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@click.option("--public", is_flag=True, help="A new repository is private unless you say this.")
@click.option("--revision", metavar="BRANCH", default="main", show_default=True, help="The branch to commit on.")
@click.option("--commit-message", metavar="TEXT", help="Title of the commit.")
@_IMAGES
@_NAMES
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def push(
    out: Output,
    source: Path,
    repo: str,
    hub: str | None,
    dry_run: bool,
    public: bool,
    revision: str,
    commit_message: str | None,
    with_images: bool,
    with_names: bool,
    yes: bool,
) -> None:
    """Send a run or package to a hub: the plan first, then one commit, read back and verified.

    \b
    Examples:
      hubtool push runs/linear-probe-… me/flowers --hub local
      hubtool push runs/linear-probe-… me/flowers --dry-run
    """
    from hubtool.jobs.endpoint import writing_hub
    from hubtool.jobs.push import push as job

    def ask(plan: PushPlan) -> bool:
        return out.confirm(f"send this to {plan.endpoint}?", yes=yes)

    report = job(
        source,
        repo,
        hub=writing_hub(hub, ask=_ask_hub if is_human() and not yes else None),
        dry_run=dry_run,
        public=public,
        revision=revision,
        commit_message=commit_message,
        with_images=with_images,
        with_names=with_names,
        yes=yes,
        confirm=ask,
        reporter=out.reporter,
    )

    def human() -> str:
        if report.commit is None:
            return plan_text(report.plan) + "\nnothing was sent (--dry-run)"
        first = "pushed" if report.is_new_commit else "already pushed"
        return f"{first}: {report.url}\n  commit {report.commit}, read back and verified"

    out.result(report, ids=[report.commit or ""], human=human)
    if report.commit is not None:
        where = " --hub local" if hub == "local" else ""
        out.hint(f"hubtool reproduce {repo} --data DIR{where}")


def _ask_hub() -> str:
    return str(click.prompt("which hub? (a URL, or local)", default="local", err=True))


def plan_text(plan: PushPlan) -> str:
    rows = [(f.path, size(f.size_bytes)) for f in plan.adds]
    kind = ("a new " if plan.is_new_repo else "the ") + ("private" if plan.is_private else "PUBLIC") + " repository"
    lines = [f"to {plan.endpoint}: {kind} {plan.repo_id}, branch {plan.revision}"]
    if rows:
        lines.append(table(rows, ("file", "size"), right=(1,)))
    lines.append(f"{len(plan.adds)} to send, {len(plan.unchanged)} unchanged, {len(plan.deletes)} to delete")
    lines += [f"of your data goes out: {text}" for text in plan.shares] or ["of your data nothing goes out"]
    return "\n".join(lines)


@click.command()
@click.argument("target")
@hub_option("Where a repository is looked up.")
@common
def card(out: Output, target: str, hub: str | None) -> None:
    """Print the model card of a run, a package or a repository."""
    from hubtool.jobs.card import card as job

    text = job(target, hub=hub, reporter=out.reporter)
    out.result({"target": target, "card": text}, ids=[target], human=lambda: text)


@click.command()
@click.argument("target")
@directory("Evaluate the model on these pictures again.", required=False)
@hub_option("Where a repository is looked up.")
@common
def verify(out: Output, target: str, data: Path | None, hub: str | None) -> None:
    """Bytes, structure, and every number of the card recomputed from the evidence; with --data evaluated again."""
    from hubtool.core.errors import IntegrityError
    from hubtool.jobs.verify import verify as job

    report = job(target, data=data, hub=hub, reporter=out.reporter)
    out.result(report, ids=[f.name for f in report.findings if not f.is_ok], human=lambda: findings(report.findings))
    wrong = [f for f in report.findings if not f.is_ok]
    if wrong:
        raise IntegrityError("E-VERIFY", f"{len(wrong)} checks failed; first: {wrong[0].detail}", where=wrong[0].name)


@click.command()
@click.argument("target")
@hub_option("Where the repository is looked up.")
@common
def lint(out: Output, target: str, hub: str | None) -> None:
    """What any model repository lacks for somebody else to use and reproduce it, each with its mend."""
    from hubtool.jobs.lint import lint as job

    report = job(target, hub=hub, reporter=out.reporter)

    def human() -> str:
        lines = []
        for f in report.findings:
            first = f"{f.points if f.is_ok else 0:2} of {f.points:2}  {f.name}"
            lines += wrapped(f"{first}: {f.detail}" if f.detail else first, later=" " * 10)
            lines += wrapped(f"→ {f.mend}", first=" " * 10, later=" " * 12) if f.mend else []
        return "\n".join([*lines, f"{report.score:2} of 100 points"])

    out.result(report, ids=[f.name for f in report.findings if not f.is_ok], human=human)


@click.command()
@click.argument("repo", metavar="OWNER/NAME[@REV]")
@directory("The pictures it was trained on.")
@directory("Where package, run and report are kept.", name="--out", required=False)
@hub_option("Where the repository is.")
@click.option("--publish", is_flag=True, help="Add the report to the repository, as reproductions/ID.json.")
@common
def reproduce(out: Output, repo: str, data: Path, hub: str | None, publish: bool, out_dir: Path | None) -> None:
    """Train a published model again and compare it claim by claim.

    Exits 0 when every claim is exact or within its tolerance, 10 when one is not.
    """
    from hubtool.core.errors import NotReproducedError
    from hubtool.jobs.reproduce import reproduce as job

    report = job(repo, data=data, hub=hub, out=out_dir, publish=publish, reporter=out.reporter)
    out.result(report, ids=[report.verdict.state], human=lambda: verdict_text(report))
    if report.verdict.state in ("not reproduced", "not checkable"):
        reason = "; ".join(report.verdict.findings) or "see the report"
        raise NotReproducedError("E-NOT-REPRODUCED", reason, where=repo, do=f"the report is {report.report}")


def verdict_text(report: ReproduceReport) -> str:
    rows = [
        (
            c.claim.name,
            f"{c.claim.value:.6f}",
            "-" if c.measured is None else f"{c.measured:.6f}",
            f"± {c.claim.tolerance:.4f}",
            c.state,
        )
        for c in report.verdict.claims
    ]
    lines = [table(rows, ("claim", "claimed", "measured", "tolerance", "verdict"), right=(1, 2, 3))]
    lines += [f"numerics differ: {d.field} was {d.was}, is {d.now}" for d in report.verdict.numerics_differ]
    lines += list(report.verdict.findings)
    lines.append("weights are " + ("equal bit for bit" if report.verdict.weights_equal else "not equal"))
    lines.append(f"reproduced: {report.verdict.state}")
    return "\n".join(lines)
