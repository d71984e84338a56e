"""hubtool registry list | add | check: what has a name here, and whether it is what it was."""

from __future__ import annotations

from pathlib import Path

from hubtool.core.digests import sha256_file
from hubtool.core.errors import ConflictError, HubtoolError, IntegrityError, NotFoundError, UsageError
from hubtool.core.files import write_text
from hubtool.core.ids import CommitSha, RepoId
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.refs import has_source, parse_backbone_ref
from hubtool.core.settings import Settings, read_settings, shipped
from hubtool.records.backbone import BackboneEntry
from hubtool.records.catalogue import unversioned
from hubtool.records.registry import (
    FILE_NAME,
    Published,
    Registry,
    add_backbone,
    add_published,
    missing,
    read_all,
    read_registry,
)
from hubtool.records.reports import CheckFinding, VerifyReport

CARDS = "model_cards"


def list_registry(path: Path | None = None) -> Registry:
    """The registry at ``path``; without it all that are read (./registry.json, HUBTOOL_HOME's, the shipped one) as one.

    Where two know a name, the first counts.
    """
    registries = [_read(path)] if path is not None else read_all(read_settings().home)
    merged = Registry()
    for registry in registries:
        merged = Registry(
            backbones={**registry.backbones, **merged.backbones}, published={**registry.published, **merged.published}
        )
    return Registry(backbones=dict(sorted(merged.backbones.items())), published=dict(sorted(merged.published.items())))


def add_registry(target: str, *, path: Path | None = None, reporter: Reporter = SILENT) -> dict[str, str]:
    """Enter a pulled backbone, or a pushed repository OWNER/NAME, in the registry at ``path`` (HUBTOOL_HOME's).

    Where a directory model_cards/ lies beside it, the backbone's card is written too.
    Returns ``{"name", "registry"}``. Raises NotFoundError for what was neither pulled nor pushed, ConflictError where
    the name stands for something else, IntegrityError where the same revision is there with other bytes.
    """
    settings = read_settings()
    registry_path = path if path is not None else settings.home / FILE_NAME
    before = _read(registry_path) if registry_path.exists() else Registry()
    registries = read_all(settings.home)
    published = _published(target, registries)
    if published is not None:
        add_published(registry_path, published)
        return {"name": published.repo_id, "registry": str(registry_path)}
    name, entry = _pulled(target, registries)
    if entry.ref.startswith("local:") and path is not None:
        raise UsageError(
            "E-REGISTRY-LOCAL", f"{entry.ref} is a directory of this machine", do="push it, and add the repository"
        )
    _refuse_other(before.backbones.get(name), entry, name, registry_path)
    add_backbone(registry_path, name, entry)
    cards = registry_path.parent / CARDS
    if cards.is_dir():
        _write_card(cards / f"{_card_name(name)}.md", name, entry)
        reporter.say(f"card written to {cards / f'{_card_name(name)}.md'}")
    return {"name": name, "registry": str(registry_path)}


def check_registry(path: Path | None = None) -> VerifyReport:
    """Whether digests, names and cards of the registry at ``path`` (without it: of all that are read) still agree.

    Files that are on this machine are hashed again; each entry's reference must parse; where a model_cards/ lies
    beside the registry, each backbone has one card that says what the entry says, and no card is without an entry.
    """
    settings = read_settings()
    paths = [path] if path is not None else [Path(FILE_NAME), settings.home / FILE_NAME, shipped(FILE_NAME)]
    findings: list[CheckFinding] = []
    seen: set[Path] = set()
    for place in paths:
        if path is None and (place.resolve() in seen or read_registry(place) is None):
            continue
        seen.add(place.resolve())
        registry = _read(place)
        findings += [_check_entry(name, entry, settings) for name, entry in registry.backbones.items()]
        findings += [_check_published(name, published) for name, published in registry.published.items()]
        if (place.parent / CARDS).is_dir():
            findings += _check_cards(registry, place.parent / CARDS)
    target = str(path) if path is not None else "every registry"
    return VerifyReport(target=target, is_ok=all(f.is_ok for f in findings), findings=tuple(findings))


def _read(path: Path) -> Registry:
    registry = read_registry(path)
    if registry is not None:
        return registry
    if path.exists():
        raise UsageError("E-REGISTRY-FOREIGN", "this file is no registry of hubtool's", where=str(path))
    raise NotFoundError("E-REGISTRY-404", "no registry there", where=str(path))


def _published(target: str, registries: list[Registry]) -> Published | None:
    """The pushed repository that ``target`` names; None where it names a backbone."""
    if has_source(target) or "/" not in target:
        return None
    repo_id = RepoId(target.partition("@")[0])
    for registry in registries:
        if repo_id in registry.published:
            return registry.published[repo_id]
    raise NotFoundError(
        "E-REGISTRY-NOTPUSHED",
        f"{repo_id} was not pushed from here",
        do=f"`hubtool push RUN {repo_id}` first; a backbone is written SOURCE:NAME",
    )


def _pulled(target: str, registries: list[Registry]) -> tuple[str, BackboneEntry]:
    """(name, entry) of a backbone: with digests if any registry has them, else as it is known."""
    ref = target
    if not has_source(target):
        named = next((entry for registry in registries if (entry := registry.backbones.get(target))), None)
        if named is None:
            raise missing(target, registries)
        ref = unversioned(named.ref)
    name = target if not has_source(target) else parse_backbone_ref(target).name
    entries = [entry for registry in registries for entry in registry.backbones.values()]
    known = [entry for entry in entries if entry.ref == ref or unversioned(entry.ref) == ref]
    with_files = next((entry for entry in known if entry.origin.files), None)
    if with_files is None and (has_source(target) or not known):
        raise NotFoundError("E-REGISTRY-NOTPULLED", f"{ref} was not pulled", do=f"`hubtool pull {ref}` first")
    return name, with_files or known[0]


def _refuse_other(before: BackboneEntry | None, entry: BackboneEntry, name: str, path: Path) -> None:
    if before is None:
        return
    if unversioned(before.ref) != unversioned(entry.ref):
        raise ConflictError(
            "E-REGISTRY-NAME",
            f"{name} stands for {before.ref}, not {entry.ref}",
            where=str(path),
            do="take that out first",
        )
    is_same_revision = before.origin.revision == entry.origin.revision
    if before.origin.files and is_same_revision and before.files_digest() != entry.files_digest():
        raise IntegrityError("E-INTEGRITY", f"{name} is there with other bytes at the same revision", where=str(path))


def _check_entry(name: str, entry: BackboneEntry, settings: Settings) -> CheckFinding:
    from hubtool.jobs.pull import directory_of

    try:
        parse_backbone_ref(entry.ref)
        directory = directory_of(entry, settings)
    except HubtoolError as error:
        return CheckFinding(name=name, is_ok=False, detail=str(error))
    if not entry.origin.files:
        is_ok = entry.digests_from is None
        return CheckFinding(
            name=name, is_ok=is_ok, detail="not pulled yet" if is_ok else "digests are claimed, none there"
        )
    if directory is None or not directory.is_dir():
        return CheckFinding(name=name, is_ok=True, detail="its files are not on this machine")
    wrong = _differing(directory, entry)
    return CheckFinding(name=name, is_ok=wrong is None, detail=wrong or f"{len(entry.origin.files)} files as recorded")


def _differing(directory: Path, entry: BackboneEntry) -> str | None:
    """The first file whose bytes are not the recorded ones."""
    converted = directory / "converted.json"
    if converted.is_file():
        from hubtool.records.backbone import Origin

        files = Origin.read(converted).files
    else:
        files = entry.origin.files
    for file in files:
        path = directory / file.path
        if not path.is_file():
            return f"{file.path} is missing"
        found = sha256_file(path)
        if found != file.sha256:
            return f"{file.path}: want sha256 {file.sha256} got {found}"
    return None


def _check_published(name: str, published: Published) -> CheckFinding:
    try:
        RepoId(published.repo_id)
        CommitSha(published.commit)
    except HubtoolError as error:
        return CheckFinding(name=name, is_ok=False, detail=str(error))
    is_ok = name == published.repo_id
    return CheckFinding(name=name, is_ok=is_ok, detail=f"commit {published.commit[:8]} on {published.hub}")


def _check_cards(registry: Registry, directory: Path) -> list[CheckFinding]:
    from hubtool.package.backbone_card import differs

    findings, wanted = [], set()
    for name, entry in registry.backbones.items():
        path = directory / f"{_card_name(name)}.md"
        wanted.add(path.name)
        if not path.is_file():
            findings.append(CheckFinding(name=f"{CARDS}/{path.name}", is_ok=False, detail="no card"))
            continue
        wrong = differs(name, entry, path.read_text(encoding="utf-8"))
        findings.append(CheckFinding(name=f"{CARDS}/{path.name}", is_ok=wrong is None, detail=wrong or "says the same"))
    extra = sorted(path.name for path in directory.glob("*.md") if path.name not in wanted)
    return findings + [
        CheckFinding(name=f"{CARDS}/{name}", is_ok=False, detail="a card without an entry") for name in extra
    ]


def _write_card(path: Path, name: str, entry: BackboneEntry) -> None:
    from hubtool.package.backbone_card import render

    write_text(path, render(name, entry, path.read_text(encoding="utf-8") if path.exists() else ""))


def _card_name(name: str) -> str:
    """A file name for a registry's name, which may hold ``/``, ``:`` and ``@``."""
    return "".join(char if char.isalnum() or char in "._-" else "-" for char in name)
