"""search · pull · show · convert · registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from hubtool.cli.options import AliasGroup, common, hub_option
from hubtool.cli.output import Output, size, table

if TYPE_CHECKING:
    from hubtool.records.backbone import BackboneEntry, LayerTable


@click.command()
@click.argument("text", default="")
@click.option("--source", type=click.Choice(["timm", "torchvision", "hf", "bundled"]), help="Only from this source.")
@click.option("--license", "license_id", metavar="ID", help="Only under this licence, as in apache-2.0.")
@click.option("--max-params", metavar="N", help="At most that many parameters, as in 30M.")
@click.option("--input-size", type=int, metavar="PIXELS", help="Only models that expect this input size.")
@click.option(
    "--sort",
    type=click.Choice(["name", "params", "size", "license"]),
    default="name",
    show_default=True,
    help="Order of rows.",
)
@click.option("--limit", type=int, default=50, show_default=True, help="At most that many rows; 0: all.")
@common
def search(
    out: Output,
    text: str,
    source: str | None,
    license_id: str | None,
    max_params: str | None,
    input_size: int | None,
    sort: Literal["name", "params", "size", "license"],
    limit: int,
) -> None:
    """Find a backbone by name, offline.

    \b
    Examples:
      hubtool search vit --license apache-2.0 --max-params 30M --sort params
      hubtool search --source torchvision convnext
    """
    from hubtool.jobs.search import search as job

    found = job(
        text,
        source=source,
        license=license_id,
        max_params=_count(max_params) if max_params else None,
        input_size=input_size,
        sort=sort,
        limit=limit or None,
    )

    def human() -> str:
        rows = [
            (e.ref, _millions(e.num_params), f"{e.preprocess.img_size[1]}", e.license or "unknown") for e in found.rows
        ]
        text = table(rows, ("backbone", "params", "input", "licence"), right=(1, 2)) if rows else "nothing found"
        more = found.num_found - len(found.rows)
        return text + (f"\n… and {more} more (--limit 0 shows all)" if more > 0 else "")

    out.result(found, ids=[e.ref for e in found.rows], human=human)


def _count(text: str) -> int:
    units = {"k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
    unit = units.get(text[-1:].lower(), 1)
    try:
        number = float(text[:-1] if unit > 1 else text) * unit
    except ValueError:
        raise click.BadParameter(f"{text!r} is no number of parameters; write 30M", param_hint="--max-params") from None
    return int(number)


def _millions(num: int | None) -> str:
    return "?" if num is None else f"{num / 1e6:.1f} M"


@click.command()
@click.argument("backbone")
@hub_option("Fetch from this hub instead of huggingface.co.")
@click.option("--convert-isolated", is_flag=True, help="Take weights that are a pickle, read in a child process.")
@common
def pull(out: Output, backbone: str, hub: str | None, convert_isolated: bool) -> None:
    """Fetch a pretrained backbone, verify every byte, enter it in the registry.

    BACKBONE is SOURCE:NAME[@REVISION] (timm, torchvision, hf, local, bundled) or a name of a registry.
    A second pull is offline and instant.

    \b
    Examples:
      hubtool pull bundled:test_resnet.fractal
      hubtool pull timm:resnet18.a1_in1k
      hubtool pull torchvision:resnet50@IMAGENET1K_V2
    """
    from hubtool.jobs.pull import pull as job

    report = job(backbone, hub=hub, convert_isolated=convert_isolated, reporter=out.reporter)
    out.result(report, ids=[report.entry.ref], human=lambda: _describe(report.entry, is_new=report.is_new))
    out.hint(f"hubtool finetune linear-probe --data DIR backbone={report.entry.ref}")


def _describe(entry: BackboneEntry, *, is_new: bool) -> str:
    total = sum(f.size_bytes for f in entry.origin.files)
    height, width = entry.preprocess.img_size
    first = "pulled" if is_new else "already here"
    lines = [
        f"{first}: {entry.ref}",
        f"  {entry.architecture} ({entry.library}), {_millions(entry.num_params)} parameters, {size(total)}",
        f"  input {entry.preprocess.in_chans}x{height}x{width}, licence {entry.license or 'unknown'}",
    ]
    if entry.digests_from == "first_pull":
        lines.append("  digests recorded at this first pull; from now on another byte is an error")
    return "\n".join(lines)


@click.command()
@click.argument("target")
@click.option("--recipe", metavar="RECIPE", help="Show what this recipe would train.")
@hub_option("Where a repository is looked up.")
@common
def show(out: Output, target: str, recipe: str | None, hub: str | None) -> None:
    """The layers of a backbone, run, package or repository: parts, shapes, parameters, FLOPs, what trains.

    \b
    Example:
      hubtool show timm:efficientnet_b0 --recipe linear-probe
    """
    from hubtool.jobs.show import show as job

    layers = job(target, recipe=recipe, hub=hub, reporter=out.reporter)
    out.result(layers, ids=[row.part for row in layers.rows], human=lambda: layer_table(layers))


def layer_table(layers: LayerTable) -> str:
    rows = [
        (
            row.part,
            "x".join(map(str, row.output_shape)) if row.output_shape else "?",
            f"{row.num_params:,}",
            f"{row.flops / 1e6:,.1f} M" if row.flops is not None else "?",
            "trained" if row.is_trainable else "frozen",
            row.norm_mode if row.norm_mode != "none" else "",
            "once" if row.is_before_frontier else "each step",
        )
        for row in layers.rows
    ]
    header = ("part", "output", "params", "FLOPs", "state", "norm", "computed")
    share = 100 * layers.num_trainable / max(1, layers.num_params)
    foot = f"{layers.num_params:,} parameters, {layers.num_trainable:,} trained ({share:.1f} %)\n{layers.frontier}"
    return table(rows, header, right=(2, 3)) + "\n" + foot


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", "target", type=click.Path(path_type=Path), metavar="FILE", help="Where the safetensors goes.")
@common
def convert(out: Output, file: Path, target: Path | None) -> None:
    """Convert a pickled checkpoint (.pth, .pt, .bin) to safetensors, in a child process that runs none of its code."""
    from hubtool.jobs.convert import convert as job

    report = job(file, target=target, reporter=out.reporter)
    out.result(report, ids=[report.path], human=lambda: f"{report.path}: {report.num_tensors} tensors")


@click.group(cls=AliasGroup)
def registry() -> None:
    """Backbones and published models by name: list, add, check."""


_REGISTRY = click.option(
    "--registry", "path", type=click.Path(path_type=Path), metavar="FILE", help="Another registry.json."
)


@registry.command("list")
@_REGISTRY
@common
def registry_list(out: Output, path: Path | None) -> None:
    """Every name, where it comes from, and whether it is here."""
    from hubtool.jobs.registry import list_registry

    listing = list_registry(path)

    def human() -> str:
        rows = [(name, e.ref, e.license or "unknown", e.digests_from or "-") for name, e in listing.backbones.items()]
        text = table(rows, ("name", "backbone", "licence", "digests"))
        for repo_id, published in listing.published.items():
            text += f"\npublished: {repo_id}@{published.commit[:8]} on {published.hub}"
        return text

    out.result(listing, ids=list(listing.backbones), human=human)


@registry.command("add")
@click.argument("target")
@_REGISTRY
@common
def registry_add(out: Output, target: str, path: Path | None) -> None:
    """Enter a pulled backbone or a pushed repository in a registry (HUBTOOL_HOME's, or --registry FILE)."""
    from hubtool.jobs.registry import add_registry

    added = add_registry(target, path=path, reporter=out.reporter)
    out.result(added, ids=[added["name"]], human=lambda: f"{added['name']} is now in {added['registry']}")


@registry.command("check")
@_REGISTRY
@common
def registry_check(out: Output, path: Path | None) -> None:
    """Digests, cards and names: does the registry agree with what is here?"""
    from hubtool.core.errors import IntegrityError
    from hubtool.jobs.registry import check_registry

    report = check_registry(path)
    out.result(report, ids=[f.name for f in report.findings if not f.is_ok], human=lambda: findings(report.findings))
    if not report.is_ok:
        raise IntegrityError("E-REGISTRY", "the registry does not agree with its files", where=report.target)


def findings(rows: tuple[object, ...]) -> str:
    """One line a finding; what is wrong stands out by its first word."""
    return "\n".join(
        f"{'ok   ' if getattr(row, 'is_ok', False) else 'WRONG'}  {getattr(row, 'name', '')}  {getattr(row, 'detail', '')}".rstrip()
        for row in rows
    )
