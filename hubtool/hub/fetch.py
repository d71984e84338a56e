"""Fetching from a hub: resolve the revision, list the tree, download, verify every byte, and only then hand it out.

huggingface_hub never compares what it downloaded with the listing, and never looks at its cache again. Here every file
is read back and compared (sha256 for large files, git's blob id for small ones); one that differs is removed and
fetched again, three times at most.
"""

from __future__ import annotations

import contextvars
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hubtool.core.digests import sha256_file
from hubtool.core.errors import IntegrityError, NotFoundError, SecurityError, StorageError
from hubtool.core.files import make_dirs, publish_dir
from hubtool.core.ids import CommitSha, RepoId, RepoPath, Revision
from hubtool.core.progress import Task
from hubtool.hub.cache import repositories
from hubtool.hub.client import Hub
from hubtool.hub.guard import Expected
from hubtool.hub.listing import INDEX, MAX_FILES, Listed, check_paths, choose, differing, problem, shards_of
from hubtool.hub.translate import offline
from hubtool.records import reproductions
from hubtool.records.backbone import FileDigest, Origin
from hubtool.records.package import MANIFEST_NAME, PackageManifest

Vouch = Literal["published", "first_pull"]
_MAX_TRIES = 3
_NUM_THREADS = 4
_CARD = "README.md"
_MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A repository at one commit: its listing, checked. Nothing of it is here yet."""

    repo_id: RepoId
    commit: CommitSha
    files: dict[str, Listed]


@dataclass(frozen=True, kw_only=True)
class FetchedPackage:
    """A package that lies verified in ``directory``; ``ignored`` are files of the repository that are not of the package.

    ``is_card_edited``: the card is not the one that was pushed. People edit cards on a hub's pages; whether its numbers
    still are those of the evidence is for the package's own check to say.
    """

    directory: Path
    commit: CommitSha
    manifest: PackageManifest
    ignored: tuple[str, ...]
    is_card_edited: bool


def fetch_repo(
    hub: Hub, repo_id: str, revision: str | None, *, wanted: Collection[str], take_pickle: bool = False
) -> tuple[Origin, Path, Vouch]:
    """Bring the wanted files of a repository here; returns the pinned origin, the directory, and who vouches.

    ``wanted`` holds names and globs; a sharded index brings its shards. Every file was compared with the hub's listing.
    Raises NotFoundError (4), IntegrityError (5), SecurityError (6), UnavailableError (75).
    """
    repo = RepoId(repo_id)
    if hub.is_offline:
        return _from_cache(hub, repo, revision, wanted)
    snapshot = resolve(hub, repo, revision)
    names = choose(snapshot.files, wanted, where=repo, take_pickle=take_pickle)
    paths = fetch_files(hub, snapshot, names)
    if INDEX in names:
        shards = shards_of(paths[INDEX], snapshot.files, where=repo)
        paths |= fetch_files(hub, snapshot, [name for name in shards if name not in paths])
    return _origin(hub, repo, snapshot.commit, paths), _directory_of(paths), "published"


def resolve(hub: Hub, repo_id: RepoId, revision: str | None) -> Snapshot:
    """Pin the revision to a commit and read its tree; every name in it is checked before anything is fetched."""
    if hub.is_offline:
        raise offline(hub, repo_id)
    what = f"{repo_id}@{revision}" if revision else str(repo_id)
    info = hub.call(what, lambda api: api.model_info(repo_id, revision=revision))
    return list_files(hub, repo_id, CommitSha(str(info.sha)))


def list_files(hub: Hub, repo_id: RepoId, commit: CommitSha) -> Snapshot:
    """The tree of a commit. Raises SecurityError for names that leave it, look alike, or are too many."""

    def list_tree(api: Any) -> list[Any]:
        entries: list[Any] = []
        for entry in api.list_repo_tree(repo_id, recursive=True, revision=commit):
            entries.append(entry)
            if len(entries) > MAX_FILES:
                raise SecurityError("E-HUB-LISTING", f"more than {MAX_FILES} files", where=repo_id)
        return entries

    entries = hub.call(repo_id, list_tree)
    check_paths([str(entry.path) for entry in entries if not hasattr(entry, "tree_id")])
    for folder in entries:
        RepoPath(str(folder.path))
    files = [_listed(entry) for entry in entries if not hasattr(entry, "tree_id")]
    return Snapshot(repo_id=repo_id, commit=commit, files={str(file.path): file for file in files})


def _listed(entry: Any) -> Listed:
    oid = str(entry.lfs.sha256 if entry.lfs else entry.blob_id)
    size = entry.lfs.size if entry.lfs else entry.size
    if len(oid) != (64 if entry.lfs else 40) or not set(oid) <= set("0123456789abcdef"):
        raise SecurityError("E-HUB-BADOID", f"{oid[:100]!a} is no digest", where=str(entry.path))
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise SecurityError("E-HUB-LISTING", f"{size!a} is no size", where=str(entry.path))
    return Listed(path=RepoPath(str(entry.path)), size_bytes=size, oid=oid)


def fetch_files(hub: Hub, snapshot: Snapshot, names: Sequence[str]) -> dict[str, Path]:
    """Download the named files into the hub's cache and verify each; returns their paths there."""
    files, stop = [snapshot.files[name] for name in names], threading.Event()
    with hub.reporter.task(f"pull {snapshot.repo_id}", sum(file.size_bytes for file in files), "B") as task:
        fetch = _in_threads(lambda file: _fetch_file(hub, snapshot, file, task, stop), files, stop)
    return dict(zip(names, fetch, strict=True))


def _in_threads(work: Callable[[Listed], Path], files: list[Listed], stop: threading.Event) -> list[Path]:
    """The work for each file; what goes wrong in one, or Ctrl-C, stops the others at their next chunk."""
    if len(files) < 2:
        return [work(file) for file in files]
    with ThreadPoolExecutor(min(_NUM_THREADS, len(files)), thread_name_prefix="hubtool-fetch") as pool:
        futures = [pool.submit(contextvars.copy_context().run, work, file) for file in files]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done() and (error := future.exception()) is not None:
                    raise error
            return [future.result() for future in futures]
        finally:
            stop.set()
            for future in futures:
                future.cancel()


def _fetch_file(hub: Hub, snapshot: Snapshot, file: Listed, task: Task, stop: threading.Event) -> Path:
    """One file, verified. A copy that differs is removed, from the cache too, and fetched again."""
    expected = Expected(snapshot.commit, file.oid, file.size_bytes, stop)
    for attempt in range(1, _MAX_TRIES + 1):
        try:
            path = hub.call(file.path, lambda api: _download(hub, api, snapshot, file, task), expected=expected)
            wrong = problem(path, file)
        except IntegrityError as error:
            path, wrong = None, error.what
        except FileNotFoundError:  # another pull has found the same copy to be bad
            path, wrong = None, "removed by another pull"
        if wrong is None and path is not None:
            return path
        if path is not None:
            _remove(path, hub.cache_dir)
        if attempt < _MAX_TRIES:
            hub.reporter.warn(f"E-INTEGRITY {file.path}: {wrong}; deleted; retrying {attempt}/{_MAX_TRIES - 1}")
    raise IntegrityError(
        "E-INTEGRITY",
        f"{file.path}: {wrong}",
        where=f"{snapshot.repo_id}@{snapshot.commit[:8]} on {hub.name}",
        do=f"deleted after {_MAX_TRIES} tries; do not use this hub if it stays so",
    )


def _download(hub: Hub, api: Any, snapshot: Snapshot, file: Listed, task: Task) -> Path:
    path = Path(
        api.hf_hub_download(
            snapshot.repo_id,
            file.path,
            revision=snapshot.commit,
            cache_dir=hub.cache_dir,
            tqdm_class=_bar(task),
        )
    )
    if not path.resolve().is_relative_to(hub.cache_dir.resolve()):
        raise SecurityError("E-HUB-OUTSIDE", "the downloaded file lies outside the cache", where=str(path))
    return path


def _remove(path: Path, cache_dir: Path) -> None:
    """Remove a bad copy: the link in the snapshot, the blob, and the store entry a blob may link to."""
    chain = [path]
    while chain[-1].is_symlink() and len(chain) < 4:
        chain.append(chain[-1].parent / chain[-1].readlink())
    for link in chain:
        if link.parent.resolve().is_relative_to(cache_dir.resolve()):
            link.unlink(missing_ok=True)


def _bar(task: Task) -> type[Any]:
    """What the library takes for a progress bar: it hands the bytes on to our task and prints nothing."""

    class Bar:
        def __init__(self, *args: object, **kwargs: object) -> None:
            self.n = 0
            self.total = 0

        def update(self, amount: float | None = 1) -> None:
            task.advance(amount or 0)

        def update_transfer(self, amount: float) -> None:
            pass

        def set_postfix_str(self, *args: object, **kwargs: object) -> None:
            pass

        def refresh(self, *args: object, **kwargs: object) -> None:
            pass

        set_description = refresh
        set_description_str = refresh
        set_transfer_total = refresh

        @property
        def format_dict(self) -> dict[str, object]:
            return {}

        def close(self) -> None:
            pass

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *exc: object) -> None:
            pass

    return Bar


def _origin(hub: Hub, repo: RepoId, commit: str, paths: dict[str, Path]) -> Origin:
    files = tuple(
        FileDigest(path=name, size_bytes=path.stat().st_size, sha256=sha256_file(path))
        for name, path in sorted(paths.items())
    )
    return Origin(repo_id=repo, revision=commit, hub=None if hub.is_public else hub.name, files=files)


def _directory_of(paths: dict[str, Path]) -> Path:
    """The snapshot directory: a path in it, less the file's own name."""
    name, path = next(iter(paths.items()))
    return path.parents[name.count("/")]


def _from_cache(hub: Hub, repo: RepoId, revision: str | None, wanted: Collection[str]) -> tuple[Origin, Path, Vouch]:
    """Offline: what another program put into the client's cache. The cache names each blob by its digest, so the bytes
    are checked; that the hub listed them nobody can say now, so it counts as trust on first use."""
    what = f"{repo}@{revision}" if revision else str(repo)
    commit = _cached_commit(hub.cache_dir, repo, revision)
    directory = directory_here(hub.cache_dir, Origin(repo_id=repo, revision=commit)) if commit else None
    if commit is None or directory is None:
        raise offline(hub, what)
    here = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    names = choose(here, wanted, where=what)
    if INDEX in names:
        names = sorted({*names, *shards_of(here[INDEX], here, where=what)})
    for name in names:
        blob = here[name].resolve()
        listed = Listed(path=RepoPath(name), size_bytes=blob.stat().st_size, oid=blob.name)
        if len(blob.name) in (40, 64) and (wrong := problem(blob, listed)):
            raise IntegrityError("E-INTEGRITY", f"{name}: {wrong}", where=str(blob), do="remove it and pull online")
    return _origin(hub, repo, commit, {name: here[name] for name in names}), directory, "first_pull"


def _cached_commit(cache_dir: Path, repo: RepoId, revision: str | None) -> CommitSha | None:
    try:
        return CommitSha(revision or "")
    except SecurityError:
        ref = cache_dir / f"models--{repo.owner}--{repo.name}" / "refs" / Revision(revision or "main")
        return CommitSha(ref.read_text().strip()) if ref.is_file() else None


def directory_here(cache_dir: Path, origin: Origin) -> Path | None:
    """Where a pinned repository lies in a cache, or None. Says nothing about its bytes."""
    for repo_id, commit, snapshot in repositories(cache_dir):
        if repo_id == origin.repo_id and commit == origin.revision:
            return snapshot
    return None


def fetch_package(hub: Hub, repo_id: str, revision: str | None, target: Path) -> FetchedPackage:
    """Bring a whole package into the directory ``target`` and verify every digest of its hubtool.json.

    What lies in ``target`` from an earlier fetch is replaced. Of the files that the manifest does not name the records of
    reproductions are fetched. Raises IntegrityError naming each file that is missing or differs; ``target`` is then as
    before.
    """
    snapshot = resolve(hub, RepoId(repo_id), revision)
    where = f"{repo_id}@{snapshot.commit[:8]}"
    if MANIFEST_NAME not in snapshot.files:
        raise NotFoundError("E-PACKAGE", f"{where} holds no {MANIFEST_NAME}", do="it was not pushed by hubtool")
    if snapshot.files[MANIFEST_NAME].size_bytes > _MAX_MANIFEST_BYTES:
        raise IntegrityError("E-PACKAGE", f"{MANIFEST_NAME} is too large", where=where)
    paths = fetch_files(hub, snapshot, [MANIFEST_NAME])
    manifest = PackageManifest.read(paths[MANIFEST_NAME])
    names = check_manifest(manifest, where)
    missing = sorted(names - snapshot.files.keys())
    if missing:
        raise IntegrityError("E-PACKAGE-MISSING", f"missing: {', '.join(missing[:10])}", where=where)
    beside = {
        name
        for name, file in snapshot.files.items()
        if reproductions.NAME.fullmatch(name) and file.size_bytes <= reproductions.MAX_BYTES
    }
    paths |= fetch_files(hub, snapshot, sorted(names | beside))
    is_card_edited = False
    with _replacing(target, where) as fresh, publish_dir(fresh) as temp:
        for name, path in paths.items():
            make_dirs((temp / name).parent)
            shutil.copyfile(path, temp / name)
        problems = differing(temp, [file for file in manifest.files if file.path != _CARD])
        is_card_edited = bool(differing(temp, [file for file in manifest.files if file.path == _CARD]))
        if problems:
            raise IntegrityError("E-INTEGRITY", "; ".join(problems[:10]), where=where, do="do not trust this package")
    return FetchedPackage(
        directory=target,
        commit=snapshot.commit,
        manifest=manifest,
        ignored=tuple(sorted(snapshot.files.keys() - names - beside - {MANIFEST_NAME, ".gitattributes"})),
        is_card_edited=is_card_edited,
    )


@contextmanager
def _replacing(target: Path, where: str) -> Iterator[Path]:
    """A name beside ``target`` to fill; then it takes the place of an earlier fetch. Other directories are refused."""
    if target.exists() and not (target / MANIFEST_NAME).is_file() and any(target.iterdir()):
        raise StorageError("E-DISK-EXISTS", f"no place for {where}, something else is there", where=str(target))
    fresh, old = target.with_name(f"{target.name}.fetched"), target.with_name(f"{target.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    yield fresh
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def check_manifest(manifest: PackageManifest, where: str) -> set[str]:
    """The names in a manifest, each checked. Raises SecurityError, or IntegrityError for one that stands there twice."""
    names = [str(RepoPath(file.path)) for file in manifest.files]
    if len(set(names)) != len(names) or MANIFEST_NAME in names:
        raise IntegrityError("E-PACKAGE", f"{MANIFEST_NAME} names a file twice, or itself", where=where)
    check_paths(names)
    return set(names)
