"""hubtool pack: a finished run becomes a directory ready to push."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hubtool
from hubtool.core.errors import HubtoolError, IntegrityError, UsageError
from hubtool.core.progress import SILENT, Reporter
from hubtool.package import build, licenses
from hubtool.package.facts import GOLDEN_NAME
from hubtool.package.snippets import for_package
from hubtool.records.backbone import BackboneEntry, LayerTable, Preprocess
from hubtool.records.package import Layout
from hubtool.records.reports import PackReport
from hubtool.records.rundir import RunDir

if TYPE_CHECKING:
    from torch import Tensor

_NUM_PICTURES = 8


def pack(
    run: str | Path,
    *,
    out: str | Path | None = None,
    with_images: bool = False,
    with_names: bool = False,
    reporter: Reporter = SILENT,
) -> PackReport:
    """Write the package of the finished run ``run`` to ``out`` (``RUN/package``); one that stands there is made again.

    The model is loaded again as others will, its logits compared, its golden logits measured, the usage snippets run.
    The run is held meanwhile. Raises UsageError (2) for an unknown licence, naming ``run.card.license``; NotFoundError (4)
    for an unfinished run; IntegrityError (5); SecurityError (6) for a secret; ConflictError (7) for a run in use.
    """
    from hubtool.jobs.pull import backbone_of
    from hubtool.jobs.target import build_selected

    place = RunDir(Path(run).expanduser())
    place.result()
    target = Path(out).expanduser() if out is not None else place.path / "package"
    _check_place(target, place)
    with place.held():
        options, resolved = place.options(), place.resolved()
        named = resolved.backbone
        backbone = backbone_of(options.backbone or named.ref, pretrained=named.pretrained, reporter=reporter)
        model = build_selected(place, reporter=reporter)
        about = build.About(
            backbone=_as_resolved(backbone.entry, place),
            license=licenses.of_result(backbone.entry.license, options.run.card.license),
            title=options.run.card.title,
            dataset=options.run.card.dataset,
            layers=_layers(place, model),
            directories=_directories(place),
        )
        manifest = build.pack(
            place.path,
            target,
            about=about,
            write_model=lambda directory: write_model(place, directory, model, backbone.entry.num_classes or 0),
            run_snippets=lambda directory, programs: _run_snippets(directory, programs, place, reporter),
            with_images=with_images,
            with_names=with_names,
        )
    return PackReport(
        package=str(target),
        layout=manifest.layout,
        weights_digest=place.result().weights_digest,
        num_files=len(manifest.files) + 1,
        size_bytes=sum(f.size_bytes for f in manifest.files),
    )


def _directories(place: RunDir) -> tuple[str, ...]:
    """Those of this machine that the run knows: of itself, of the data, of a ``local:`` backbone as it was written."""
    options = place.options()
    source, _, written = (options.backbone or "").partition(":")
    local = (written, str(Path(written).expanduser().absolute())) if source == "local" else ()
    return (str(place.path.absolute()), options.data_dir, *local)


def _check_place(target: Path, place: RunDir) -> None:
    """A package may lie in its run, but not be the run, hold it, or lie among the run's own files."""
    real, run = target.resolve(), place.path.resolve()
    inside = real.relative_to(run).parts[0] if real.is_relative_to(run) and real != run else ""
    if real == run or run.is_relative_to(real) or inside in ("checkpoints", "logs", "evidence", "plots"):
        raise UsageError(
            "E-PACK-OUT", "the package would lie over files of its run", where=str(target), do="choose another --out"
        )


def _as_resolved(entry: BackboneEntry, place: RunDir) -> BackboneEntry:
    """The backbone as it is recorded in resolved.json. Raises IntegrityError when it was pulled anew with other bytes."""
    pinned = place.resolved().backbone
    if sorted((f.path, f.sha256) for f in pinned.files) != sorted((f.path, f.sha256) for f in entry.origin.files):
        raise IntegrityError(
            "E-RUN-BACKBONE",
            f"{entry.ref} has other files now than the run was trained from",
            where=str(place.path),
            do="train again with --new",
        )
    return entry.model_copy(update={"ref": pinned.ref})


def write_model(place: RunDir, directory: Path, model: Any, num_base_classes: int) -> Layout:
    """The selected weights as unmodified timm and transformers load them, and the golden logits of what was written.

    ``num_base_classes``: outputs of the backbone's own classifier, which an appended head reads.
    """
    from hubtool.backbones import export

    resolved, data = place.resolved(), place.data()
    layout = export.export(model, resolved, data.classes, directory, num_base_classes=num_base_classes)
    preprocess = resolved.preprocess
    pictures_BCHW = golden_pictures(resolved.train.seed, preprocess)
    golden = export.golden(
        directory,
        pictures_BCHW=pictures_BCHW,
        input_seed=resolved.train.seed,
        input_shape=(preprocess.in_chans, *preprocess.img_size),
    )
    (directory / GOLDEN_NAME).parent.mkdir(exist_ok=True)
    golden.write(directory / GOLDEN_NAME)
    export.check_golden(directory, golden, pictures_BCHW=pictures_BCHW, rtol=0.0)
    return layout


def _layers(place: RunDir, model: Any) -> LayerTable:
    """The layers of the trained model as the last phase left them."""
    from hubtool.backbones import freeze, layers
    from hubtool.backbones.parts import find_parts

    resolved = place.resolved()
    parts = find_parts(model, resolved.backbone.library)
    phase = freeze.schedule(resolved, parts, num_epochs=resolved.train.epochs)[-1]
    shape = (resolved.preprocess.in_chans, *resolved.preprocess.img_size)
    return layers.table(model, parts, phase, input_shape=shape, frontier=layers.frozen_through(parts, phase))


def golden_pictures(seed: int, preprocess: Preprocess) -> Tensor:
    """x_BCHW of the 8 pictures that are drawn from ``seed``, through the packaged preprocessing."""
    import torch

    from hubtool.data import images, transforms

    rows = []
    for picture in images.draw_pictures(seed, _NUM_PICTURES):
        with io.BytesIO() as stream:
            picture.save(stream, format="PNG")
            image, _ = images.decode(stream.getvalue(), preprocess.in_chans)
        rows.append(transforms.preprocess(image, preprocess))
    return torch.stack(rows)


def _run_snippets(
    directory: Path, programs: Mapping[str, str], place: RunDir, reporter: Reporter
) -> dict[str, tuple[str, str]]:
    """Run each program on the package, on a drawn picture; transformers' is left out where that cannot be imported."""
    from hubtool.data.images import draw_pictures

    printed: dict[str, tuple[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="hubtool-") as folder:
        picture = Path(folder) / "picture.png"
        draw_pictures(place.resolved().train.seed, 1)[0].save(picture)
        for library, code in programs.items():
            try:
                output = _run(for_package(code, library, str(directory), str(picture)), library)
            except ImportError as error:
                if library != "transformers":  # everything else is here, so that it is the snippet that is wrong
                    raise IntegrityError(
                        "E-PACK-SNIPPET", f"the {library} snippet of the card fails: {error}"
                    ) from error
                why = str(error).partition("\n")[0]
                reporter.say(
                    f"the {library} snippet is left out of the card: {library} cannot be imported here ({why})"
                )
                continue
            printed[library] = (hubtool.__version__ if library == "hubtool" else version(library), output)
    return printed


def _run(code: str, library: str) -> str:
    """What the program prints. Raises IntegrityError when it fails: such a card would mislead."""
    names: dict[str, Any] = {"__name__": "__snippet__"}
    with (
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            exec(compile(code, f"<{library} snippet>", "exec"), names)
        except (
            HubtoolError,
            SyntaxError,
            RuntimeError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            OSError,
            AssertionError,
        ) as error:
            raise IntegrityError(
                "E-PACK-SNIPPET",
                f"the {library} snippet of the card fails: {type(error).__name__}: {error}",
                do="please report this backbone",
            ) from error
        finally:
            logging.disable(logging.NOTSET)
    return output.getvalue()
