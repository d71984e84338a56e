"""hubtool pull: bring a backbone here, pinned and verified, and enter it in HUBTOOL_HOME's registry."""

from __future__ import annotations

import shutil
from pathlib import Path

from hubtool.backbones import sources
from hubtool.core.errors import IntegrityError, NotFoundError
from hubtool.core.files import make_dirs
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.refs import BackboneRef, has_source, parse_backbone_ref
from hubtool.core.settings import BUNDLED, PUBLIC_HUB, Settings, read_settings
from hubtool.hub.client import cache_dir
from hubtool.hub.fetch import Vouch, directory_here, fetch_repo
from hubtool.hub.listing import INDEX, choose, differing, digest_files, is_pickle, shards_of
from hubtool.hub.urls import fetch_url, url_dir
from hubtool.jobs import endpoint
from hubtool.records.backbone import CONFIG_NAMES, BackboneEntry, Origin
from hubtool.records.registry import FILE_NAME, Registry, add_backbone, missing, read_all, read_registry
from hubtool.records.reports import PullReport

_OF_A_DIRECTORY = (*CONFIG_NAMES, "*.safetensors", INDEX)
_CONVERTED = "converted.json"


def pull(
    ref: str, *, hub: str | None = None, convert_isolated: bool = False, reporter: Reporter = SILENT
) -> PullReport:
    """Bring the backbone ``SOURCE:NAME[@REVISION]``, or one named in a registry, here and verify every byte.

    What was pulled before is checked against its digests and taken from this disk, without network; what is damaged there
    is fetched again. ``convert_isolated`` allows weights that are a pickle, read in a child process.
    Raises NotFoundError (4), IntegrityError (5), SecurityError (6), UnavailableError (75).
    """
    settings = read_settings()
    registries = read_all(settings.home)
    wanted = _wanted(ref, registries)
    listed = _find(str(wanted), registries[-1:] if wanted.source == "bundled" else registries)
    known = listed if listed is not None and listed.origin.files else None
    is_here = known is not None and hub in (None, known.origin.hub) and _is_intact(wanted, known, settings, reporter)
    if known is not None and is_here:
        return _enter(wanted, known, directory_of(known, settings), settings)
    pinned = parse_backbone_ref(known.ref) if known is not None and hub is None else wanted
    recorded = listed.origin.hub if listed is not None else None
    origin, directory, vouch = _fetch(pinned, settings, hub, recorded, convert_isolated, reporter)
    entry = sources.describe(_pinned(wanted, origin), origin, directory)
    of_listing = {"license": entry.license or (listed.license if listed else None)}
    entry = entry.model_copy(update={"origin": origin, "digests_from": vouch, **of_listing})
    if known is not None and wanted.source != "local":
        _compare(entry, known)
    return _enter(wanted, entry, directory, settings)


def backbone_of(ref: str, *, pretrained: bool, reporter: Reporter = SILENT) -> PullReport:
    """The backbone of a recipe: pulled; for random weights only described, and nothing is fetched or entered."""
    if pretrained:
        return pull(ref, reporter=reporter)
    report = outline(ref, reporter=reporter)
    return report.model_copy(update={"entry": report.entry.as_random()})


def outline(ref: str, *, hub: str | None = None, reporter: Reporter = SILENT) -> PullReport:
    """A backbone without its weights: from the libraries' own tables or a directory's config.json, without network.

    What stands in a repository alone (``hf:``) is pulled: nothing else says how it is built.
    """
    wanted = _wanted(ref, read_all(read_settings().home))
    if wanted.source == "hf":
        return pull(ref, hub=hub, reporter=reporter)
    origin = sources.locate(wanted)
    directory = Path(origin.directory) if origin.directory else None
    if directory is not None:
        names = [name for name in CONFIG_NAMES if (directory / name).is_file()]
        origin = origin.model_copy(update={"files": digest_files(directory, names)})
    entry = sources.describe(wanted, origin, directory)
    return PullReport(entry=entry, directory=str(directory) if directory else None, is_new=False)


def directory_of(entry: BackboneEntry, settings: Settings) -> Path | None:
    """Where the files of a pulled entry lie on this machine; None when they are not here. Checks no digest."""
    ref, origin = parse_backbone_ref(entry.ref), entry.origin
    if ref.source == "bundled":
        return BUNDLED / "backbones" / ref.name
    converted = _converted_dir(origin, settings)
    if converted.is_dir():
        return converted
    if ref.source == "local":
        return Path(ref.name)
    return directory_here(cache_dir(origin.hub or PUBLIC_HUB, settings), origin) if origin.repo_id else None


def _wanted(ref: str, registries: list[Registry]) -> BackboneRef:
    """The reference itself, or the one that stands behind a registry's name; a directory made absolute."""
    if not has_source(ref):
        found = next((found for registry in registries if (found := registry.find(ref))), None)
        if found is None:
            raise missing(ref, registries)
        ref = found.ref
    parsed = parse_backbone_ref(ref)
    if parsed.source == "local":
        return BackboneRef(source="local", name=str(Path(parsed.name).expanduser().absolute()))
    return parsed


def _find(ref: str, registries: list[Registry]) -> BackboneEntry | None:
    """The entry with digests if any registry has one, else the first that knows the name.

    What is bundled is looked up in the shipped registry alone: it is as new as the files."""
    found = [entry for registry in registries if (entry := registry.find(ref)) is not None]
    return next((entry for entry in found if entry.origin.files), found[0] if found else None)


def _is_intact(wanted: BackboneRef, known: BackboneEntry, settings: Settings, reporter: Reporter) -> bool:
    """Whether the bytes on this disk are what the registry says. Raises IntegrityError for damaged bundled ones."""
    directory = directory_of(known, settings)
    if directory is None:
        return False
    converted = directory / _CONVERTED
    problems = differing(directory, (Origin.read(converted) if converted.is_file() else known.origin).files)
    if wanted.source == "local" and converted.is_file():
        problems = differing(Path(wanted.name), known.origin.files) or problems
    if not problems:
        return True
    if wanted.source == "bundled":
        raise IntegrityError("E-INTEGRITY", problems[0], where=str(directory), do="install hubtool again")
    if wanted.source == "local":
        reporter.warn(f"{wanted} has changed since it was pulled: {problems[0]}")
    else:
        reporter.warn(f"E-INTEGRITY {problems[0]}; fetching it again")
    return False


def _enter(wanted: BackboneRef, entry: BackboneEntry, directory: Path | None, settings: Settings) -> PullReport:
    path = settings.home / FILE_NAME
    registry = read_registry(path)
    is_new = registry is None or registry.find(str(wanted)) != entry
    if is_new:
        add_backbone(path, str(wanted), entry)
    return PullReport(entry=entry, directory=str(directory), is_new=is_new)


def _fetch(
    ref: BackboneRef,
    settings: Settings,
    hub: str | None,
    recorded: str | None,
    convert_isolated: bool,
    reporter: Reporter,
) -> tuple[Origin, Path, Vouch]:
    """The pinned origin with the digest of every file, the directory, and who vouches for them."""
    place = sources.locate(ref)
    if place.directory:
        return _from_directory(Path(place.directory), settings, convert_isolated, reporter)
    if place.url:
        fetched = fetch_url(place.url, home=settings.home, is_offline=settings.is_offline, reporter=reporter)
        if is_pickle(fetched.path.name):
            if ref.source != "torchvision" and not convert_isolated:
                choose([fetched.path.name], (), where=str(ref))
            _convert(fetched.path, fetched.path.parent, reporter)
        return fetched.origin, fetched.path.parent, fetched.digests_from
    if place.repo_id is None:
        raise NotFoundError(
            "E-REF-WEIGHTS", f"{ref} has no pretrained weights", do="write `pretrained: false` in the recipe"
        )
    with endpoint.reading(hub, recorded=recorded, reporter=reporter) as opened:
        origin, directory, vouch = fetch_repo(
            opened, place.repo_id, ref.revision, wanted=sources.wanted_files(ref), take_pickle=convert_isolated
        )
    return origin, _without_pickle(origin, directory, settings, reporter), vouch


def _from_directory(
    directory: Path, settings: Settings, convert_isolated: bool, reporter: Reporter
) -> tuple[Origin, Path, Vouch]:
    here = {path.name for path in directory.iterdir() if path.is_file()}
    names = choose(here, _OF_A_DIRECTORY, where=str(directory), take_pickle=convert_isolated)
    if INDEX in names:
        names = sorted({*names, *shards_of(directory / INDEX, here, where=str(directory))})
    origin = Origin(directory=str(directory), files=digest_files(directory, names))
    return origin, _without_pickle(origin, directory, settings, reporter), "first_pull"


def _without_pickle(origin: Origin, directory: Path, settings: Settings, reporter: Reporter) -> Path:
    """The directory itself, or where its pickle was converted and the other files were copied to."""
    pickles = [file.path for file in origin.files if is_pickle(file.path)]
    if not pickles:
        return directory
    others = [file.path for file in origin.files if file.path not in pickles]
    return _convert(directory / pickles[0], _converted_dir(origin, settings), reporter, directory, others)


def _converted_dir(origin: Origin, settings: Settings) -> Path:
    """Content-addressed: named by the sha256 of the file the weights were converted from."""
    weights = next((file for file in origin.files if is_pickle(file.path)), None) or next(iter(origin.files), None)
    return url_dir(settings.home, weights.sha256 if weights else "-")


def _convert(
    pickle: Path, target: Path, reporter: Reporter, directory: Path | None = None, others: list[str] | None = None
) -> Path:
    """The pickle as ``target/model.safetensors``, read in a child process; ``others`` are copied beside it."""
    from hubtool.backbones import unpickle

    make_dirs(target)
    reporter.say(f"converting {pickle.name} to safetensors in a child process; the pickle is never loaded here")
    unpickle.convert(pickle, target / "model.safetensors", reporter=reporter)
    for name in others or []:
        if directory is not None:
            shutil.copyfile(directory / name, target / name)
    Origin(files=digest_files(target, ["model.safetensors", *(others or [])])).write(target / _CONVERTED)
    if directory is None:
        pickle.unlink()
    return target


def _pinned(wanted: BackboneRef, origin: Origin) -> BackboneRef:
    if origin.repo_id is None:
        return wanted
    return BackboneRef(source=wanted.source, name=wanted.name, revision=origin.revision)


def _compare(entry: BackboneEntry, known: BackboneEntry) -> None:
    """Raise IntegrityError where the same revision now has other bytes than the registry says."""
    if entry.origin.revision != known.origin.revision:
        return
    before = {file.path: file.sha256 for file in known.origin.files}
    for file in entry.origin.files:
        if before.get(file.path, file.sha256) != file.sha256:
            vouched = "published with it" if known.digests_from == "published" else "at the first pull"
            raise IntegrityError(
                "E-INTEGRITY",
                f"{file.path}: want sha256 {before[file.path]} ({vouched}) got {file.sha256}",
                where=known.ref,
                do="somebody changed the file; do not use it",
            )
