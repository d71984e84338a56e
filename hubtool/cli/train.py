"""recipe · finetune · evaluate · predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hubtool.cli.options import AliasGroup, common, directory, hub_option
from hubtool.cli.output import Output, table
from hubtool.cli.text import short

if TYPE_CHECKING:
    from hubtool.records.reports import EvaluateReport, FinetuneReport, Lookalikes, Prediction, Twin

Device = Literal["auto", "cpu", "cuda", "mps"]

_NUM_SHOWN = 10

_RECIPE = click.argument("recipe")
_OVERRIDES = click.argument("overrides", nargs=-1, metavar="[PATH.TO.KEY=VALUE]...")


@click.group(cls=AliasGroup)
def recipe() -> None:
    """The recipes: list, cp, check, show, schema."""


@recipe.command("list")
@common
def recipe_list(out: Output) -> None:
    """The recipes that travel with hubtool."""
    from hubtool.jobs.recipe import list_recipes

    recipes = list_recipes()
    out.result(recipes, ids=list(recipes), human=lambda: table(list(recipes.items()), ("recipe", "what it does")))


@recipe.command("cp")
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path), required=False)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@common
def recipe_cp(out: Output, name: str, target: Path | None, force: bool) -> None:
    """Copy a recipe to a file of your own, to edit it.

    \b
    Example:
      hubtool recipe cp last-stage mine.yaml
    """
    from hubtool.jobs.recipe import copy_recipe

    path = copy_recipe(name, target, force=force)
    out.result({"recipe": str(path)}, ids=[str(path)], human=lambda: f"copied to {path}")
    out.hint(f"hubtool recipe check {path}")


@recipe.command("check")
@_RECIPE
@_OVERRIDES
@common
def recipe_check(out: Output, recipe: str, overrides: tuple[str, ...]) -> None:
    """Is the recipe right? Names the line and the key that is not; looks at no backbone and no data."""
    from hubtool.jobs.recipe import check_recipe

    checked = check_recipe(recipe, overrides)
    out.result(checked, ids=[recipe], human=lambda: f"{recipe}: right")


@recipe.command("show")
@_RECIPE
@_OVERRIDES
@common
def recipe_show(out: Output, recipe: str, overrides: tuple[str, ...]) -> None:
    """The resolved recipe: every default filled in, the backbone pinned."""
    import json

    from hubtool.jobs.recipe import show_recipe

    resolved = show_recipe(recipe, overrides, reporter=out.reporter)
    digest = resolved.digest()
    out.result(
        {**resolved.to_dict(), "digest": digest},
        ids=[digest],
        human=lambda: json.dumps(resolved.to_dict(), indent=2, ensure_ascii=False) + f"\ndigest {digest}",
    )


@recipe.command("schema")
@common
def recipe_schema(out: Output) -> None:
    """The JSON schema of a recipe, for an editor that completes YAML."""
    import json

    from hubtool.jobs.recipe import recipe_schema as job

    schema = job()
    out.result(schema, ids=list(schema["properties"]), human=lambda: json.dumps(schema, indent=2))


@click.command()
@_RECIPE
@_OVERRIDES
@directory("The pictures: one folder per class, with or without train/val/test above.")
@directory("Where the run is kept; default: runs/<recipe>-<backbone>-<digest>.", name="--run", required=False)
@click.option("--new", is_flag=True, help="Start a twin of a run that is there already.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True)
@click.option("--workers", type=int, metavar="N", help="Processes that decode pictures; changes no number.")
@click.option(
    "--skip-bad", type=int, default=0, metavar="N", help="Leave out up to N damaged files (the card says so)."
)
@click.option("--allow-drift", is_flag=True, help="Resume although recipe, data or machine differ (the card says so).")
@click.option("--no-cache", is_flag=True, help="Compute the frozen part again in every epoch.")
@click.option("--cache-limit", metavar="SIZE", help="At most that much disk for the cache, as in 5GB.")
@click.option(
    "--nproc",
    "processes",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Share each step out to N processes.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=2),
    metavar="K",
    help="Repeat with K more seeds; claims get their band (mean, sd).",
)
@click.option(
    "--mirror",
    metavar="DIR|REPO",
    help="Copy each checkpoint there too; a fresh machine goes on from it (REPO: private).",
)
@hub_option("Where a mirror OWNER/NAME lies.")
@click.option("--prove-resume", is_flag=True, help="Train a little twice, once with kills, and compare every bit.")
@common
def finetune(
    out: Output,
    recipe: str,
    overrides: tuple[str, ...],
    data: Path,
    run: Path | None,
    new: bool,
    device: Device,
    workers: int | None,
    skip_bad: int,
    allow_drift: bool,
    no_cache: bool,
    cache_limit: str | None,
    processes: int,
    seeds: int | None,
    mirror: str | None,
    hub: str | None,
    prove_resume: bool,
) -> None:
    """Fine-tune a backbone on a folder of pictures. The same command starts, resumes and finds its run again.

    RECIPE is a file or a shipped name (`hubtool recipe list`); any key can be overridden behind it.

    \b
    Examples:
      hubtool finetune linear-probe --data flowers
      hubtool finetune last-stage --data flowers train.epochs=5 train.optimizer.lr=3e-4
      hubtool finetune mine.yaml --data flowers backbone=timm:resnet18.a1_in1k --device cuda
      hubtool finetune mine.yaml --data flowers --mirror /mnt/drive/flowers
    """
    if prove_resume:
        _prove(out, recipe, overrides, data, device, workers)
        return
    from hubtool.jobs.finetune import finetune as job

    report = job(
        recipe,
        data=data,
        run=run,
        new=new,
        overrides=overrides,
        device=device,
        num_workers=workers,
        skip_bad=skip_bad,
        allow_drift=allow_drift,
        use_cache=not no_cache,
        cache_limit_bytes=_bytes(cache_limit) if cache_limit else None,
        num_processes=processes,
        num_seeds=seeds or 0,
        mirror=mirror,
        hub=hub,
        reporter=out.reporter,
    )
    out.result(report, ids=[report.run], human=lambda: finetune_text(report))
    out.hint(f"hubtool push {report.run} OWNER/NAME --hub local")


def _prove(
    out: Output, recipe: str, overrides: tuple[str, ...], data: Path, device: Device, workers: int | None
) -> None:
    from hubtool.jobs.prove_resume import prove_resume

    proof = prove_resume(
        recipe, data=data, overrides=overrides, device=device, num_workers=workers, reporter=out.reporter
    )
    kills = ", ".join(map(str, proof.killed_at))
    out.result(proof, ids=[proof.weights_digest], human=lambda: f"killed at step {kills}; resumed bit for bit")


def finetune_text(report: FinetuneReport) -> str:
    result = report.result
    first = "finished" if report.status == "finished" else "finished before, nothing to do"
    rows = [
        (claim.name, f"{claim.value:.4f}", f"± {claim.tolerance:.4f}", str(claim.num_samples))
        for claim in result.claims
    ]
    lines = [
        f"{first}: {report.run}",
        table(rows, ("claim", "value", "tolerance", "samples"), right=(1, 2, 3)),
        f"chosen: epoch {result.selected.epoch} by {result.selected.metric} = {result.selected.value:.4f}",
        f"trained {result.num_trainable:,} of {result.num_params:,} parameters; "
        + ("the frozen part equals the backbone bit for bit" if result.is_frozen_equal else "FROZEN PART CHANGED"),
        f"weights {result.weights_digest[:16]}",
    ]
    if report.seeds is not None:
        bands = [(claim.name, report.seeds.band(claim.metric)) for claim in result.claims]
        over = [(name, f"{band.mean:.4f}", f"{band.sd:.4f}") for name, band in bands if band is not None]
        lines += ["", table(over, (f"over {len(report.seeds.runs)} seeds", "mean", "sd"), right=(1, 2))]
    return "\n".join(lines)


def _bytes(text: str) -> int:
    units = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
    unit = units.get(text[-2:].lower(), 1)
    try:
        return int(float(text[:-2] if unit > 1 else text) * unit)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no size; write 5GB", param_hint="--cache-limit") from None


@click.command()
@click.argument("target")
@directory("The pictures to evaluate on.")
@click.option("--split", metavar="NAME", help="Only this split; default: test, else val, else all.")
@directory("A new directory for predictions, intervals, plots, likely label errors.", name="--out", required=False)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True)
@click.option("--workers", type=int, metavar="N", help="Processes that decode pictures.")
@hub_option("Where a repository is looked up.")
@common
def evaluate(
    out: Output,
    target: str,
    data: Path,
    split: str | None,
    out_dir: Path | None,
    device: Device,
    workers: int | None,
    hub: str | None,
) -> None:
    """Metrics of a run, a package or a repository on a folder of pictures; with --out the evidence behind them.

    \b
    Examples:
      hubtool evaluate runs/linear-probe-… --data flowers/test
      hubtool evaluate me/flowers --data other-flowers --out looked-at
    """
    from hubtool.jobs.evaluate import evaluate as job

    report = job(
        target,
        data=data,
        split=split,
        out=out_dir,
        device=device,
        num_workers=workers,
        hub=hub,
        reporter=out.reporter,
    )
    ids = [f"{name}={value}" for name, value in report.metrics.items()]
    out.result(report, ids=ids, human=lambda: evaluate_text(report))


def evaluate_text(report: EvaluateReport) -> str:
    first = f"{report.num_samples} pictures ({report.split})"
    evaluation = report.evaluation
    if evaluation is None:
        rows = [(name, f"{value:.4f}") for name, value in report.metrics.items()]
        return f"{first}\n" + table(rows, ("metric", "value"), right=(1,))
    measured = [
        (name, f"{m.value:.4f}", "" if m.low is None else f"{m.low:.4f} to {m.high:.4f}")
        for name, m in evaluation.metrics.items()
    ]
    lines = [first, table(measured, ("metric", "value", "95 % interval"), right=(1,))]
    suspicions = evaluation.suspicions
    if suspicions:
        shown = [
            (short(s.path or s.sha256[:12], 34), short(s.given, 16), f"{short(s.suggested, 16)} {s.confidence:.0%}")
            for s in suspicions[:_NUM_SHOWN]
        ]
        lines += ["", f"{len(suspicions)} labels are likely wrong (confident learning), the likeliest first:"]
        lines += [table(shown, ("picture", "labelled", "rather"))]
    lines += _twin_lines(evaluation.twins)
    lines += _lookalike_lines(evaluation.lookalikes)
    more = f"; all {len(suspicions)} are in evaluation.json" if len(suspicions) > _NUM_SHOWN else ""
    return "\n".join([*lines, "", f"evidence: {report.evidence}{more}"])


def _twin_lines(twins: tuple[Twin, ...]) -> list[str]:
    """What stands twice, byte for byte, and why it matters."""
    kinds = (
        ("also in the training data", [t for t in twins if "train" in t.splits]),
        ("also in val, which chose the weights", [t for t in twins if "val" in t.splits and "train" not in t.splits]),
        ("also in another split here", [t for t in twins if t.beside]),
        ("more than once here", [t for t in twins if len(t.paths) > 1]),
        ("with labels that contradict", [t for t in twins if len(t.given) > 1]),
    )
    rows = [(what, len(found), short(found[0].paths[0], 30)) for what, found in kinds if found]
    return ["", table(rows, ("copies, byte for byte", "pictures", "such as"), right=(1,))] if rows else []


def _lookalike_lines(found: Lookalikes | None) -> list[str]:
    """What likely is the same picture in another file; and what could not be compared."""
    if found is None:
        return []
    ours = [(pair, pair.split if pair.of == "model" else f"{pair.split}, here") for pair in found.pairs]
    rows = [(short(pair.path, 30), short(pair.like, 30), short(where, 14)) for pair, where in ours[:_NUM_SHOWN]]
    lines = []
    if rows:
        lines = ["", f"{len(found.pairs)} are likely the same picture in another file (looked alike, not proven):"]
        lines += [table(rows, ("picture", "likely", "of"))]
    if found.unknown:
        lines += ["", f"likely copies of the model's own pictures: not fully known, {found.unknown}"]
    return lines


@click.command()
@click.argument("target")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", type=int, default=5, show_default=True, metavar="K", help="The K best classes.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated rows on stdout.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True)
@hub_option("Where a repository is looked up.")
@common
def predict(
    out: Output, target: str, images: tuple[Path, ...], top: int, as_csv: bool, device: Device, hub: str | None
) -> None:
    """Classes of pictures (files or folders), best first.

    \b
    Example:
      hubtool predict demo/digits --hub local photo.png
    """
    from hubtool.jobs.predict import predict as job

    predictions = job(target, list(images), top=top, device=device, hub=hub, reporter=out.reporter)
    documents: list[Any] = [p.to_dict() for p in predictions]
    if as_csv:
        import csv
        import sys

        writer = csv.writer(sys.stdout)
        is_number = any(p.task == "regression" for p in predictions)
        writer.writerow(["path", *(("output", "value") if is_number else ("class", "score"))])
        for prediction in predictions:
            for name, score in prediction.scores:
                writer.writerow([prediction.path, name, f"{score:.6f}"])
        return

    def human() -> str:
        return "\n".join(_predicted(p) for p in predictions)

    out.result(documents, ids=[_predicted_id(p) for p in predictions], human=human)


def _predicted(prediction: Prediction) -> str:
    """A line for people: shares in percent, numbers as they are; of several labels, which ones it is said to have."""
    if prediction.task == "regression":
        scores = ", ".join(f"{name} {value:.6g}" for name, value in prediction.scores)
    else:
        scores = ", ".join(f"{name} {100 * share:.1f} %" for name, share in prediction.scores)
    if prediction.task == "multilabel":
        scores = f"{' + '.join(prediction.called) or 'none'} ({scores})"
    return f"{prediction.path}: {scores}"


def _predicted_id(prediction: Prediction) -> str:
    """For scripts: the class, the labels as a table has them, or the numbers."""
    if prediction.task == "regression":
        return " ".join(f"{value:.9g}" for _, value in prediction.scores)
    return "|".join(prediction.called)
