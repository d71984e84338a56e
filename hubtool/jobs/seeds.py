"""The seed band of a finished run: its recipe trained again with other seeds. No verb: ``finetune --seeds`` calls it.

What is frozen comes from the activation cache, so that each repetition of a linear probe costs its epochs alone.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from hubtool.core.errors import UsageError
from hubtool.core.files import make_dirs
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.settings import read_settings
from hubtool.jobs.run import Inputs, train
from hubtool.records import rundir
from hubtool.records.recipe import Log
from hubtool.records.run import Result
from hubtool.records.rundir import RunDir
from hubtool.records.seed_bands import SEEDS_NAME, SeedRun, Seeds, banded


def repeat(place: RunDir, inputs: Inputs, num_seeds: int, *, reporter: Reporter = SILENT) -> Result:
    """Train with the ``num_seeds`` seeds after the recipe's own and give the claims their bands; the run stays what it is.

    Each seed is written down when it is done, so that the same command goes on. Returns the result with its new tolerances.
    """
    if num_seeds < 2:
        raise UsageError("E-OPTION", f"{num_seeds} more seeds give no band", do="give --seeds 2 or more")
    result, first = place.result(), inputs.resolved.train.seed
    path, split = place.path / SEEDS_NAME, result.claims[0].split
    seeds = Seeds.read(path) if path.is_file() else Seeds(split=split, runs=(_run_of(first, result),))
    known = {run.seed for run in seeds.runs}
    left = [seed for seed in range(first + 1, first + num_seeds + 1) if seed not in known]
    with reporter.task("other seeds", len(left), "seed") as bar:
        for seed in left:
            seeds = seeds.model_copy(update={"runs": (*seeds.runs, _run_of(seed, _trained(inputs, seed)))})
            seeds.write(path)
            bar.advance()
    result = result.model_copy(update={"claims": banded(result.claims, seeds)})
    result.write(place.path / rundir.RESULT)
    return result


def _trained(inputs: Inputs, seed: int) -> Result:
    """In a directory that is removed again; with neither sinks nor plots, and from the same pictures and cache."""
    resolved, options = inputs.resolved, inputs.options
    log = Log(tensorboard=False)
    other = dataclasses.replace(
        inputs,
        mirror=None,
        resolved=resolved.model_copy(update={"train": resolved.train.model_copy(update={"seed": seed})}),
        options=options.model_copy(
            update={"run": options.run.model_copy(update={"log": log}), "is_shown": False, "allow_drift": False}
        ),
    )
    scratch = read_settings().home / "scratch"
    make_dirs(scratch)
    with tempfile.TemporaryDirectory(dir=scratch) as temp:
        place = RunDir(Path(temp) / "run")
        with place.held():
            return train(place, other)


def _run_of(seed: int, result: Result) -> SeedRun:
    return SeedRun(seed=seed, metrics={claim.metric: claim.value for claim in result.claims})
