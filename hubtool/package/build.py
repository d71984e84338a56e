"""From a finished run to a package: a directory with everything that somebody else needs, hubtool.json last.

Nothing is seen under the target's name before all of it is there. What the room cannot do itself (write a model, run a
snippet) the caller hands in.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets as random_names
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import hubtool
from hubtool.core.digests import sha256_file
from hubtool.core.errors import IntegrityError, NotFoundError, UsageError, from_os_error
from hubtool.core.files import (
    DISK,
    TEMP_PREFIX,
    make_dirs,
    publish_dir,
    safe_walk,
    write_bytes,
    write_inside,
    write_text,
)
from hubtool.package import card as cards
from hubtool.package import front, secrets
from hubtool.package.facts import (
    BACKBONE_NAME,
    CARD_NAME,
    GOLDEN_NAME,
    LAYERS_NAME,
    SNIPPETS_NAME,
    WEIGHTS_NAME,
    read_facts,
)
from hubtool.package.licenses import License
from hubtool.package.privacy import copy_logs, copy_plots
from hubtool.package.snippets import REPO, snippets_for
from hubtool.package.tensors import packed_weights
from hubtool.records import reproductions
from hubtool.records.backbone import BackboneEntry, FileDigest, LayerTable
from hubtool.records.dataset import DataManifest
from hubtool.records.package import MANIFEST_NAME, Layout, PackageManifest, Snippet, Snippets
from hubtool.records.recipe import Card
from hubtool.records.recipe_file import without_directory
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.run import Result
from hubtool.records.seed_bands import SEEDS_NAME
from hubtool.records.strict import Record

# Write the model and its golden logits into the directory; tell which layout it has.
WriteModel = Callable[[Path], Layout]
# Run the programs (library → code) on the package in the directory; for each that can run here: the version, what it printed.
RunSnippets = Callable[[Path, Mapping[str, str]], Mapping[str, tuple[str, str]]]


@dataclass(frozen=True, kw_only=True)
class About:
    """What the run directory does not say: the backbone as pulled, the licence of the result, what a person named.

    ``directories`` are those of this machine that the run has to do with; no log that names one leaves.
    """

    backbone: BackboneEntry
    license: License
    title: str | None = None
    dataset: str | None = None
    layers: LayerTable | None = None
    directories: tuple[str, ...] = ()


def pack(
    run_dir: Path,
    target: Path,
    *,
    about: About,
    write_model: WriteModel,
    run_snippets: RunSnippets,
    with_images: bool = False,
    with_names: bool = False,
) -> PackageManifest:
    """Make the package ``target`` from the finished run ``run_dir``.

    A package that stands there is replaced, and what a person wrote in its card kept; anything else there is refused.
    Raises SecurityError for a secret, IntegrityError for evidence that does not belong to the run's result.
    """
    with _replacing(target) as temp:
        _copy_run(run_dir, temp, about.directories, with_images=with_images, with_names=with_names)
        _write_about(temp, about)
        layout = write_model(temp)
        _write_record(temp / WEIGHTS_NAME, packed_weights(temp))
        described = PackageManifest(
            hubtool=hubtool.__version__,
            layout=layout,
            base_model=about.backbone.origin.repo_id or about.backbone.ref.partition("@")[0],
            base_revision=about.backbone.origin.revision,
            license=_license_spelling(about.license),
            has_images=with_images,
            has_names=with_names,
            files=(),
        )
        _write_record(temp / SNIPPETS_NAME, _snippets(temp, described, run_snippets))
        _write_eval_results(temp, layout)
        secrets.refuse(secrets.scan(temp))
        counted = _keep_reproductions(target, temp)
        card = cards.render(temp, layout=layout, person=_person_text_of(target), counted=counted)
        write_inside(temp / cards.FILE_NAME, card.encode())
        secrets.refuse(secrets.scan_file(temp / cards.FILE_NAME, cards.FILE_NAME))
        manifest = described.model_copy(update={"files": file_digests(temp)})
        _write_record(temp / MANIFEST_NAME, manifest)
    return manifest


def address(package_dir: Path, repo: str, *, person: Mapping[str, str] | None = None) -> PackageManifest:
    """Make the card name the repository ``OWNER/NAME`` it is pushed to, keep what a person wrote in it, update hubtool.json.

    ``person`` is the text of the card that stands in the repository now; what stands in the package's own card comes first.
    The reproductions that lie beside the package and are about its result are counted.
    The same repository and text give the same bytes. Interrupted, it is done by calling it again. Raises IntegrityError
    (E-CARD-MISMATCH) for a card that was edited elsewhere than between its markers: nothing is corrected unasked.
    """
    manifest = read_manifest(package_dir)
    path = package_dir / cards.FILE_NAME
    own: dict[str, str] = {}
    if path.is_file():
        standing = path.read_text(encoding="utf-8")
        cards.refuse_edited(standing, package_dir, manifest.layout)
        own = cards.person_text(standing)
    texts = {**(person or {}), **own}
    counted = reproductions.counted(package_dir, Result.read(package_dir / "result.json"))
    text = cards.render(package_dir, layout=manifest.layout, repo=repo, person=texts, counted=counted)
    secrets.refuse(secrets.scan_text(text, cards.FILE_NAME))
    write_text(path, text)
    files = tuple(f for f in manifest.files if f.path != cards.FILE_NAME)
    renewed = manifest.model_copy(update={"files": _sorted((*files, _file_digest(path, cards.FILE_NAME)))})
    write_bytes(package_dir / MANIFEST_NAME, renewed.to_json() + b"\n")
    return renewed


def is_same_package(one: PackageManifest, other: PackageManifest) -> bool:
    """Whether two manifests are of one package: equal in everything but the card, which others may write in."""
    without_card = (
        manifest.model_copy(update={"files": tuple(f for f in manifest.files if f.path != cards.FILE_NAME)})
        for manifest in (one, other)
    )
    return next(without_card) == next(without_card)


def keep_beside(package_dir: Path, records: Mapping[str, bytes]) -> None:
    """Write records of reproductions (path → bytes) beside a package."""
    for path, data in records.items():
        make_dirs((package_dir / path).parent)
        write_bytes(package_dir / path, data)


def read_manifest(package_dir: Path) -> PackageManifest:
    """Raises NotFoundError where the directory is no package."""
    path = package_dir / MANIFEST_NAME
    if not path.is_file():
        raise NotFoundError("E-PACKAGE-404", f"no package: {MANIFEST_NAME} is missing", where=str(package_dir))
    return PackageManifest.read(path)


def file_digests(package_dir: Path) -> tuple[FileDigest, ...]:
    """Every file of the package but its manifest, sorted by path; reproductions lie beside it."""
    return _sorted(
        tuple(
            _file_digest(path, name)
            for name, path in safe_walk(package_dir)
            if name != MANIFEST_NAME and not reproductions.NAME.fullmatch(name)
        )
    )


def shares(manifest: PackageManifest) -> tuple[str, ...]:
    """What of the user's data goes out with the package, in words, for the plan that push shows."""
    paths = {f.path for f in manifest.files}
    told = []
    if "data.json" in paths:
        names = "file name, " if manifest.has_names else ""
        told.append(f"data.json: {names}sha256, size and target of every picture, and the class names")
    predictions = sorted(p for p in paths if re.fullmatch(r"evidence/.*\.safetensors", p) and p != GOLDEN_NAME)
    told += [f"{path}: logits of each picture by its sha256" for path in predictions]
    if manifest.has_images:
        pictures = [p for p in sorted(paths) if p.startswith(("plots/", "logs/"))]
        told.append(f"pictures of the data, in logs and plots ({len(pictures)} files)")
    return tuple(told)


def _sorted(files: tuple[FileDigest, ...]) -> tuple[FileDigest, ...]:
    return tuple(sorted(files, key=lambda f: f.path))


def _file_digest(path: Path, name: str) -> FileDigest:
    return FileDigest(path=name, size_bytes=path.stat().st_size, sha256=sha256_file(path))


def _license_spelling(license_: License) -> str:
    return f"other:{license_.name}" if license_.name else license_.id


def _copy_run(run_dir: Path, temp: Path, directories: tuple[str, ...], *, with_images: bool, with_names: bool) -> None:
    resolved = ResolvedRecipe.read(run_dir / "resolved.json")
    data = DataManifest.read(run_dir / "data.json")
    result = Result.read(run_dir / "result.json")
    _belongs(result, resolved, data)
    recipe = (run_dir / "recipe.yaml").read_text(encoding="utf-8")
    write_inside(temp / "recipe.yaml", without_directory(recipe, resolved.backbone.ref).encode())
    _write_record(temp / "data.json", data if with_names else data.without_names())
    for name in ("resolved.json", "environment.json", "result.json"):
        write_inside(temp / name, (run_dir / name).read_bytes())
    (temp / "evidence").mkdir()
    for path in sorted({claim.evidence for claim in result.claims}):
        evidence = run_dir / path
        if not evidence.is_file() or not evidence.resolve().is_relative_to(run_dir.resolve()):
            raise NotFoundError("E-EVIDENCE-404", "the evidence of a claim is missing", where=path)
        write_inside(temp / path, evidence.read_bytes())
        digest = sha256_file(temp / path)
        if any(claim.evidence == path and claim.evidence_sha256 != digest for claim in result.claims):
            raise IntegrityError(
                "E-EVIDENCE", "it was changed after the claims were made", where=path, do="train again with --new"
            )
    if (run_dir / SEEDS_NAME).is_file():
        write_inside(temp / SEEDS_NAME, (run_dir / SEEDS_NAME).read_bytes())
    copy_plots(run_dir, temp, with_images=with_images)
    copy_logs(run_dir, temp, with_images=with_images, directories=directories)


def _belongs(result: Result, resolved: ResolvedRecipe, data: DataManifest) -> None:
    pairs = {
        "resolved.json": (resolved.digest(), result.recipe_digest),
        "data.json": (data.digest(), result.data_digest),
        "resolved.json (backbone)": (resolved.backbone.digest(), result.backbone_digest),
    }
    for name, (now, then) in pairs.items():
        if now != then:
            raise IntegrityError(
                "E-RUN-DIGEST", f"{name} is not that of the result", where=name, do="train again with --new"
            )


def _write_about(temp: Path, about: About) -> None:
    origin = about.backbone.origin.model_copy(update={"directory": None, "hub": None})
    source, _, name = about.backbone.ref.partition(":")
    ref = f"local:{name.rstrip('/').rpartition('/')[2]}" if source == "local" else about.backbone.ref
    backbone = about.backbone.model_copy(update={"origin": origin, "ref": ref})
    _write_record(temp / BACKBONE_NAME, backbone)
    card = Card(license=_license_spelling(about.license), title=about.title, dataset=about.dataset)
    _write_record(temp / CARD_NAME, card)
    if about.layers is not None:
        _write_record(temp / LAYERS_NAME, about.layers)


def _snippets(temp: Path, described: PackageManifest, run: RunSnippets) -> Snippets:
    """Run the programs. While they run, a manifest stands there: the directory is read as the package it will be."""
    programs = snippets_for(described.layout, ResolvedRecipe.read(temp / "resolved.json"))
    _write_record(temp / MANIFEST_NAME, described)
    printed = run(temp, programs)
    (temp / MANIFEST_NAME).unlink()
    kept = [
        Snippet(library=name, version=printed[name][0], code=code, output=printed[name][1])
        for name, code in programs.items()
        if name in printed
    ]
    return Snippets(snippets=tuple(kept))


def _write_eval_results(temp: Path, layout: Layout) -> None:
    text = front.eval_results(read_facts(temp, layout))
    if text is not None:
        (temp / front.EVAL_NAME).parent.mkdir()
        write_inside(temp / front.EVAL_NAME, text.encode())


def _write_record(path: Path, record: Record) -> None:
    write_inside(path, record.to_json() + b"\n")


def _person_text_of(target: Path) -> dict[str, str]:
    path = target / cards.FILE_NAME
    return cards.person_text(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _keep_reproductions(target: Path, temp: Path) -> tuple[str, ...]:
    """The records beside the package that is replaced, where they are about this result too: they go along."""
    kept = reproductions.counted(target, Result.read(temp / "result.json"))
    for path in map(reproductions.path_of, kept):
        (temp / path).parent.mkdir(exist_ok=True)
        write_inside(temp / path, (target / path).read_bytes())
    return kept


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A directory beside ``target`` to fill, which takes its place when the block ends well.

    The old package lies aside for the moment between two renames; a kill then loses nothing: the next packing finds it.
    """
    aside = target.with_name(f".{target.name}.hubtool-old")
    is_ours = (aside / MANIFEST_NAME).is_file() and not aside.is_symlink()
    if is_ours and not target.exists() and not target.is_symlink():
        os.replace(aside, target)
    if target.is_symlink() or (target.exists() and not (target / MANIFEST_NAME).is_file()):
        raise UsageError(
            "E-PACK-OUT", "something that is no package stands there", where=str(target), do="choose another --out"
        )
    if is_ours and aside.exists():
        shutil.rmtree(aside, ignore_errors=True)
    fresh = target.with_name(f"{TEMP_PREFIX}{random_names.token_hex(6)}")
    try:
        with publish_dir(fresh) as temp:
            yield temp
        if not target.exists():
            os.replace(fresh, target)
        else:
            os.replace(target, aside)
            try:
                os.replace(fresh, target)
            except OSError:
                os.replace(aside, target)
                raise
        DISK.fsync_dir(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise from_os_error(error, str(target)) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


__all__ = ["REPO", "About", "address", "file_digests", "pack", "read_manifest", "shares"]
