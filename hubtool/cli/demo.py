"""demo · doctor."""

from __future__ import annotations

import click

from hubtool.cli.options import common
from hubtool.cli.output import Output


@click.command()
@common
def demo(out: Output) -> None:
    """The whole line offline in about a minute: pull, finetune, push to a local hub, reproduce.

    On the handwritten digits that travel with hubtool; everything it writes lies under HUBTOOL_HOME.
    """
    from hubtool.jobs.demo import demo as job

    report = job(reporter=out.reporter)

    def human() -> str:
        claims = ", ".join(f"{name} {value:.4f}" for name, value in report.metrics.items())
        return (
            f"{claims}\nreproduced: {report.reproduce['verdict']} ({report.wall_s:.0f} s in all)\n"
            f"  run      {report.run}\n  package  {report.package}\n"
            f"  hub      {report.hub_root} ({report.repo}@{report.commit[:8]})"
        )

    out.result(report, ids=[report.repo], human=human)
    out.hint("hubtool finetune last-stage --data DIR   (a folder of yours, one folder per class)")
    out.hint("hubtool serve                            (look at demo/digits in a browser)")


@click.command()
@common
def doctor(out: Output) -> None:
    """What this machine has: versions, device, disk, directories, hubs, and what would not work."""
    from hubtool.cli.backbones import findings
    from hubtool.jobs.doctor import doctor as job

    report = job()
    out.result(report, ids=[f.name for f in report.findings if not f.is_ok], human=lambda: findings(report.findings))
