"""hubtool verify, as far as it goes without a model: every file, every number, every rule, each finding by its name.

Nothing of a package is trusted: it is read under limits, parsed into strict types, and nothing in it is executed.
A card is true when it is equal to its rendering from the evidence; a person's text between its markers is free.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hubtool.core.digests import sha256_file
from hubtool.core.errors import HubtoolError, IntegrityError, SecurityError
from hubtool.core.files import safe_walk
from hubtool.core.ids import RepoPath, case_twins
from hubtool.package import card as cards
from hubtool.package import check_evidence, licenses, privacy, secrets
from hubtool.package.build import read_manifest
from hubtool.package.facts import CARD_NAME, Facts, read_facts
from hubtool.package.front import metadata
from hubtool.records import reproductions
from hubtool.records.package import MANIFEST_NAME, PackageManifest
from hubtool.records.reports import CheckFinding
from hubtool.records.run import Result
from hubtool.records.yaml_loader import load_yaml

_REQUIRED = (
    "README.md",
    "model.safetensors",
    "config.json",
    "recipe.yaml",
    "resolved.json",
    "data.json",
    "environment.json",
    "result.json",
    "evidence/golden.safetensors",
    "logs/metrics.jsonl",
)
_PICKLE_SUFFIXES = (
    ".pkl",
    ".pickle",
    ".pt",
    ".pth",
    ".bin",
    ".ckpt",
    ".joblib",
    ".dill",
    ".npy",
    ".npz",
    ".mar",
    ".pb",
    ".h5",
)
_CODE_SUFFIXES = (".py", ".pyc", ".so", ".dll", ".dylib", ".sh", ".exe", ".ipynb")
_ACTIVE = re.compile(
    r"<\s*(script|iframe|object|embed|form|style|meta|link|base|svg|math|input|button|video|audio)\b|\bon[a-z]{3,}\s*=|javascript\s*:"
    r"|data\s*:\s*text/html|<img[^>]+src\s*=\s*[\"']?\s*(?:https?:)?//|!\[[^\]]*\]\(\s*<?(?:https?:)?//",
    re.IGNORECASE,
)

Findings = Iterator[CheckFinding]


def verify(package_dir: Path) -> tuple[CheckFinding, ...]:
    """Every check on the package in ``package_dir``; a check that finds nothing wrong gives one finding that is ok.

    Raises NotFoundError where the directory is no package; whatever is wrong inside is a finding.
    """
    try:
        manifest = read_manifest(package_dir)
    except IntegrityError as error:
        return (CheckFinding(name=MANIFEST_NAME, is_ok=False, detail=str(error)),)
    try:
        paths = dict(safe_walk(package_dir))
    except HubtoolError as error:
        return (CheckFinding(name="files", is_ok=False, detail=str(error)),)
    found = [*_group("card", lambda: _card(package_dir, manifest))]
    is_card_true = all(finding.is_ok for finding in found)
    found = [*_group("files", lambda: _files(manifest, paths, is_card_true=is_card_true)), *found]
    found += _group("reproductions", lambda: _reproductions(package_dir))
    found += _group("no pickle, no code", lambda: _no_code(paths))
    found += _group("no secret", lambda: _no_secret(paths))
    found += _group("privacy", lambda: _privacy(package_dir, manifest, paths))
    found += _group("licence", lambda: _license(package_dir, manifest))
    for name, check in check_evidence.CHECKS.items():
        found += _group(name, lambda check=check: check(read_facts(package_dir, manifest.layout)))  # type: ignore[misc]
    return tuple(found)


def _group(name: str, check: Callable[[], Findings]) -> list[CheckFinding]:
    """What the check found wrong, or one finding that says it is fine; an error of ours is a finding too."""
    wrong: list[CheckFinding] = []
    try:
        wrong.extend(check())
    except HubtoolError as error:
        wrong.append(CheckFinding(name=error.where or name, is_ok=False, detail=str(error)))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        wrong.append(CheckFinding(name=name, is_ok=False, detail=f"cannot be read: {error}"))
    return wrong or [CheckFinding(name=name, is_ok=True)]


def _files(manifest: PackageManifest, paths: dict[str, Path], *, is_card_true: bool) -> Findings:
    listed = {f.path: f for f in manifest.files}
    if len(listed) != len(manifest.files):
        yield CheckFinding.wrong(MANIFEST_NAME, "a path is listed twice")
    if twins := case_twins(list(listed)):
        yield CheckFinding.wrong(MANIFEST_NAME, f"{twins[0]!a} and {twins[1]!a} are one file on some systems")
    for path, wanted in sorted(listed.items()):
        try:
            RepoPath(path)
        except SecurityError as error:
            yield CheckFinding.wrong(MANIFEST_NAME, str(error))
            continue
        if path not in paths:
            yield CheckFinding.wrong(path, "the file is missing")
        elif path == cards.FILE_NAME and is_card_true:
            continue
        elif paths[path].stat().st_size != wanted.size_bytes:
            yield CheckFinding.wrong(
                path, f"{paths[path].stat().st_size} bytes, {MANIFEST_NAME} says {wanted.size_bytes}"
            )
        elif (digest := sha256_file(paths[path])) != wanted.sha256:
            yield CheckFinding.wrong(path, f"sha256 is {digest[:16]}…, {MANIFEST_NAME} says {wanted.sha256[:16]}…")
    for path in sorted(set(paths) - set(listed) - {MANIFEST_NAME}):
        if not reproductions.BESIDE.fullmatch(path):
            yield CheckFinding.wrong(path, f"the file is not listed in {MANIFEST_NAME}")
    for path in _REQUIRED:
        if path not in listed:
            yield CheckFinding.wrong(path, f"a package has this file, {MANIFEST_NAME} does not list it")


def _no_code(paths: dict[str, Path]) -> Findings:
    for name, path in paths.items():
        if name.lower().endswith(_CODE_SUFFIXES):
            yield CheckFinding.wrong(name, "a program; a package holds data only")
        elif name.lower().endswith(_PICKLE_SUFFIXES) or looks_pickled(path):
            yield CheckFinding.wrong(name, "a pickle, or a format that may hold one; weights are safetensors")


def looks_pickled(path: Path) -> bool:
    """By content: a pickle of protocol 2 or later, torch's old format, or a zip archive (torch's new one)."""
    with path.open("rb") as stream:
        start = stream.read(16)
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and len(start) > 2)


def _no_secret(paths: dict[str, Path]) -> Findings:
    for name, path in paths.items():
        for secret in (*secrets.scan_text(name, name), *secrets.scan_file(path, name)):
            yield CheckFinding.wrong(f"{secret.path}:{secret.line}", f"{secret.rule} starting with {secret.start!r}")


def _privacy(package_dir: Path, manifest: PackageManifest, paths: dict[str, Path]) -> Findings:
    if not manifest.has_names:
        facts = read_facts(package_dir, manifest.layout)
        named = sum(s.path is not None for samples in facts.data.splits.values() for s in samples)
        named += sum(s.path is not None for s in facts.data.skipped)
        if named:
            yield CheckFinding.wrong(
                "data.json", f"{named} file names of the data, though {MANIFEST_NAME} says there are none"
            )
    if not manifest.has_images:
        for name, path in paths.items():
            if name.endswith(".safetensors") or reproductions.BESIDE.fullmatch(name):
                continue
            is_plot = privacy.is_picture_free_plot(name)
            has_embedded = is_plot and name.endswith(".svg") and b"data:image" in path.read_bytes()
            if has_embedded or (not is_plot and privacy.holds_picture(path)):
                yield CheckFinding.wrong(name, f"holds a picture, though {MANIFEST_NAME} says there are none")


def _license(package_dir: Path, manifest: PackageManifest) -> Findings:
    license_ = licenses.parse(manifest.license)
    if license_ is None:
        yield CheckFinding.wrong(MANIFEST_NAME, f"{manifest.license!r} is no licence")
        return
    facts = read_facts(package_dir, manifest.layout)
    if license_ != facts.license:
        yield CheckFinding.wrong(MANIFEST_NAME, f"the licence is {license_}, {CARD_NAME} says {facts.license}")
    base = licenses.parse(facts.backbone.license)
    if base is not None and (problem := licenses.looser_by(base, license_)):
        yield CheckFinding.wrong("licence", f"{license_} drops what the backbone's licence {base} asks: {problem}")
    pinned = facts.resolved.backbone
    if (
        manifest.base_model != (pinned.repo_id or pinned.ref.partition("@")[0])
        or manifest.base_revision != pinned.revision
    ):
        yield CheckFinding.wrong(
            MANIFEST_NAME, f"the base model is {manifest.base_model} at {manifest.base_revision}, not resolved.json's"
        )


def _card(package_dir: Path, manifest: PackageManifest) -> Findings:
    path = package_dir / cards.FILE_NAME
    if not path.is_file():
        yield CheckFinding.wrong(cards.FILE_NAME, "the card is missing")
        return
    text = path.read_text(encoding="utf-8")
    front = load_yaml(cards.front_matter(text).encode(), f"{cards.FILE_NAME} front matter").value
    repo = cards.repo_of(text)
    facts = read_facts(package_dir, manifest.layout, _counted(package_dir, text))
    yield from _front_matter(front, facts, repo)
    person = cards.person_text(text)
    for place, detail in cards.differences(text, cards.render_facts(facts, repo=repo, person=person)):
        yield CheckFinding.wrong(place, detail)
    yield from active_text(person)


def active_text(person: Mapping[str, str]) -> Findings:
    """What a person wrote that a page does not show: programs, and pictures from elsewhere."""
    for section, written in person.items():
        if active := _ACTIVE.search(written):
            yield CheckFinding.wrong(
                f"{cards.FILE_NAME} {section}", f"{active[0][:40]!r} would be removed where the card is shown"
            )


def _counted(package_dir: Path, text: str) -> tuple[str, ...]:
    """Of the reproductions that the card names those that may be counted."""
    may = reproductions.counted(package_dir, Result.read(package_dir / "result.json"))
    return tuple(record_id for record_id in cards.counted_of(text) if record_id in may)


def _reproductions(package_dir: Path) -> Findings:
    """Every record that the card counts is there and counts; one that lies there uncounted is told, and no fault."""
    path, result = package_dir / cards.FILE_NAME, Result.read(package_dir / "result.json")
    named = set(cards.counted_of(path.read_text(encoding="utf-8")) if path.is_file() else ())
    for record_id in sorted(named):
        if problem := reproductions.problem_of(package_dir, record_id, result):
            yield CheckFinding.wrong(reproductions.path_of(record_id), f"the card counts it: {problem}")
    for record_id in reproductions.found(package_dir):
        if record_id not in named:
            problem = reproductions.problem_of(package_dir, record_id, result)
            detail = f"not counted: {problem}" if problem else "not counted by the card yet: the next push does"
            yield CheckFinding(name=reproductions.path_of(record_id), is_ok=True, detail=detail)


def _front_matter(front: object, facts: Facts, repo: str) -> Findings:
    wanted = metadata(facts, repo)
    if not isinstance(front, dict):
        yield CheckFinding.wrong(f"{cards.FILE_NAME} front matter", "no mapping of keys")
        return
    for key in sorted(wanted.keys() | front.keys()):
        if key not in front:
            yield CheckFinding.wrong(f"{cards.FILE_NAME} {key}", "is missing from the front matter")
        elif key not in wanted:
            yield CheckFinding.wrong(f"{cards.FILE_NAME} {key}", "the evidence gives no such key of the front matter")
        elif front[key] != wanted[key]:
            yield CheckFinding.wrong(f"{cards.FILE_NAME} {key}", "the front matter differs from the evidence")
