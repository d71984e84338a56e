"""A run directory: its files by name, what is written at its beginning, and what differs when it is taken up again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hubtool.core.digests import sha256_json
from hubtool.core.errors import ConflictError, NotFoundError, UsageError
from hubtool.core.files import make_dirs, remove_leftovers, write_bytes
from hubtool.core.locks import hold
from hubtool.core.refs import parse_backbone_ref
from hubtool.records.dataset import DataManifest
from hubtool.records.environment import Difference, Environment, differences
from hubtool.records.recipe import Run
from hubtool.records.resolve import ResolvedRecipe
from hubtool.records.run import Result, RunOptions

RESOLVED = "resolved.json"
RESULT = "result.json"
_MINE = {"recipe.yaml", RESOLVED, "options.json", "environment.json", "data.json", RESULT}
_MINE |= {"checkpoints", "logs", "evidence", "plots", ".lock"}


class RunDir:
    """One run. ``resolved.json`` is written last of the beginning, ``result.json`` last of all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.journal = path / "logs" / "metrics.jsonl"
        self.plots = path / "plots"

    @property
    def is_begun(self) -> bool:
        return (self.path / RESOLVED).is_file()

    @property
    def is_finished(self) -> bool:
        return (self.path / RESULT).is_file()

    def result(self) -> Result:
        """Raises NotFoundError for a run that is not finished."""
        if not self.is_begun:
            raise NotFoundError("E-RUN-404", "there is no run", where=str(self.path), do="`hubtool runs list`")
        if not self.is_finished:
            raise NotFoundError(
                "E-RUN-UNFINISHED", "the run is not finished", where=str(self.path), do="start its command again"
            )
        return Result.read(self.path / RESULT)

    def resolved(self) -> ResolvedRecipe:
        return ResolvedRecipe.read(self.path / RESOLVED)

    def data(self) -> DataManifest:
        return DataManifest.read(self.path / "data.json")

    def environment(self) -> Environment:
        return Environment.read(self.path / "environment.json")

    def options(self) -> RunOptions:
        return RunOptions.read(self.path / "options.json")

    def evidence(self, split: str) -> str:
        """The predictions of a split, relative to the run."""
        return f"evidence/{split}.safetensors"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the directory and be its one writer for the block."""
        make_dirs(self.path)
        with hold(self.path / ".lock", f"the run {self.path}", has_heartbeat=True):
            remove_leftovers(self.path)
            yield

    def begin(
        self,
        *,
        recipe: bytes,
        resolved: ResolvedRecipe,
        data: DataManifest,
        environment: Environment,
        options: RunOptions,
    ) -> None:
        """Write what the run depends on; of a run that goes on with drift, what it depends on from now."""
        for name in ("checkpoints", "logs", "evidence", "plots"):
            make_dirs(self.path / name)
        write_bytes(self.path / "recipe.yaml", recipe)
        options.write(self.path / "options.json")
        environment.write(self.path / "environment.json")
        data.write(self.path / "data.json")
        resolved.write(self.path / RESOLVED)

    def keep_run_section(self, run: Run) -> None:
        """Of a finished run: what the recipe's run section says now (licence, title), for the package. Changes no number."""
        options = self.options()
        if options.run != run:
            options.model_copy(update={"run": run}).write(self.path / "options.json")

    def drift(self, resolved: ResolvedRecipe, data: DataManifest, environment: Environment) -> tuple[Difference, ...]:
        """What differs from what the run began with, field by field: recipe, data, Numerics. Nothing for a new run."""
        if not self.is_begun:
            return ()
        found = differences(self.resolved(), resolved)
        found += differences(self.environment().numerics, environment.numerics, "numerics")
        return found + _data_drift(self.data(), data)


def _data_drift(was: DataManifest, now: DataManifest) -> tuple[Difference, ...]:
    if was.digest() == now.digest() and was.classes == now.classes:
        return ()
    found = [Difference(field="data.digest", was=was.digest()[:12], now=now.digest()[:12])]
    if was.classes != now.classes:
        found.append(Difference(field="data.classes", was=", ".join(was.classes), now=", ".join(now.classes)))
    for split in sorted(was.splits.keys() | now.splits.keys()):
        before, after = ({s.sha256 for s in m.splits.get(split, ())} for m in (was, now))
        if before != after:
            text = f"{len(after)} pictures, {len(before - after)} gone, {len(after - before)} new"
            found.append(Difference(field=f"data.{split}", was=f"{len(before)} pictures", now=text))
    return tuple(found)


def refuse_drift(drift: tuple[Difference, ...], where: Path) -> None:
    """Raises ConflictError (7) that shows every field that differs, the first ones in full."""
    if drift:
        shown = "; ".join(f"{d.field}: {d.was[:60]} → {d.now[:60]}" for d in drift[:8])
        more = f"; and {len(drift) - 8} more" if len(drift) > 8 else ""
        raise ConflictError(
            "E-DRIFT",
            f"the run was begun with something else: {shown}{more}",
            where=str(where),
            do="start a new run with --new or another --run, or go on with --allow-drift",
        )


def choose(
    run: Path | None, *, recipe: str, resolved: ResolvedRecipe, data: DataManifest, data_dir: Path, new: bool
) -> RunDir:
    """The directory that was named, or the one that recipe and data give; with ``new`` the next free twin of it."""
    path = run.expanduser() if run is not None else Path("runs") / default_name(recipe, resolved, data)
    _check_place(path, data_dir)
    if new:
        twins = (path.with_name(f"{path.name}-{number}") for number in range(2, 10_000))
        path = path if not path.exists() else next(twin for twin in twins if not twin.exists())
    return RunDir(path)


def default_name(recipe: str, resolved: ResolvedRecipe, data: DataManifest) -> str:
    """``<recipe>-<backbone>-<8 hex of recipe and data digest>``."""
    backbone = parse_backbone_ref(resolved.backbone.ref).name.rpartition("/")[2]
    digest = sha256_json([resolved.digest(), data.digest()])[:8]
    return f"{_word(recipe)}-{_word(backbone)}-{digest}"


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:60] or "run"


def _check_place(path: Path, data_dir: Path) -> None:
    real, data = path.resolve(), data_dir.resolve()
    if real == data or real.is_relative_to(data) or data.is_relative_to(real):
        raise UsageError(
            "E-RUN-PLACE", "the run and the data cannot lie in each other", where=str(path), do="choose another --run"
        )
    if any((parent / "hubtool.json").is_file() for parent in (real, *real.parents)):
        raise UsageError(
            "E-RUN-PLACE", "the run would lie inside a package", where=str(path), do="choose another --run"
        )
    if any(place.is_file() for place in (real, *real.parents)):
        raise UsageError("E-RUN-PLACE", "a file stands there", where=str(path), do="choose another --run")
    if real.is_dir() and not (real / RESOLVED).is_file():
        strange = [
            entry.name for entry in real.iterdir() if entry.name not in _MINE and not entry.name.startswith(".tmp")
        ]
        if strange:
            raise UsageError(
                "E-RUN-PLACE",
                f"the directory holds something else ({sorted(strange)[0]})",
                where=str(path),
                do="choose another --run",
            )
