"""Logits of a split, in order, without touching the model. N pictures, K outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hubtool.core.errors import NumericError
from hubtool.records.dataset import Sample
from hubtool.records.evidence import Array, Predictions
from hubtool.training.feed import Cut, Feed, LiveFeed, Loader, Whole, autocast, padded
from hubtool.training.numerics import memory_format_of, torch_format
from hubtool.training.order import plain_batches
from hubtool.training.processes import Alone, Group


def infer(
    feed: Feed,
    cut: Cut,
    *,
    num_samples: int,
    micro_size: int,
    device: torch.device,
    precision: str = "fp32",
    advance: Callable[[int], object] = int,
    group: Group | None = None,
) -> Array:
    """float32 (N, K). Every chunk has the micro-batch's shape, the last one padded; processes share the chunks out.
    ``advance`` is called with each chunk's size and may raise to end it."""
    group = group or Alone()
    batches = list(plain_batches(num_samples, micro_size))[group.rank :: group.num_processes]
    feed.prepare(batches)
    rows: list[Array] = []
    for batch, features in zip(batches, feed.features(batches), strict=True):
        with torch.no_grad(), autocast(device, precision):
            logits_BK = cut.suffix(tuple(padded(f, micro_size) for f in features), training=False)
        rows.append(logits_BK[: len(batch.samples)].float().cpu().numpy())
        advance(len(batch.samples))
    if group.num_processes == 1:
        return np.concatenate(rows)
    num_outputs = int(group.sum_up([], [rows[0].shape[1] if group.rank == 0 else 0])[0])
    logits_NK = np.zeros((num_samples, num_outputs), np.float32)
    for batch, row in zip(batches, rows, strict=True):
        logits_NK[list(batch.samples)] = row
    return group.add_rows(logits_NK)


def predictions(split: str, samples: Sequence[Sample], logits_NK: Array) -> Predictions:
    """With the targets as they are written down. Raises NumericError naming the first picture whose logits are not finite."""
    refuse_not_finite(split, samples, logits_NK)
    is_index = all(isinstance(sample.target, int) for sample in samples)
    rows: list[Any] = [s.target if is_index or isinstance(s.target, tuple) else (s.target,) for s in samples]
    return Predictions(
        split=split,
        samples=tuple(sample.sha256 for sample in samples),
        targets=np.asarray(rows, dtype=np.int64 if is_index else np.float32),
        logits_NK=logits_NK,
    )


def predict(
    model: Any,
    loader: Loader,
    samples: Sequence[Sample],
    *,
    split: str,
    micro_size: int,
    device: torch.device,
    precision: str = "fp32",
    advance: Callable[[int], object] = int,
) -> Predictions:
    """Evaluate a plain model (x_BCHW → logits_BK, as ``load_package`` gives it) on a loader's samples.

    Its tensors lie as training lays them, by the same rule: another layout would be another kernel and other bits.
    """
    layout = memory_format_of(model)
    model.to(device, memory_format=torch_format(layout))
    whole = Whole(model.eval(), "a finished model")
    feed = LiveFeed(loader, whole, micro_size=micro_size, device=device, precision=precision, memory_format=layout)
    logits_NK = infer(
        feed,
        whole,
        num_samples=len(samples),
        micro_size=micro_size,
        device=device,
        precision=precision,
        advance=advance,
    )
    return predictions(split, samples, logits_NK)


def refuse_not_finite(split: str, samples: Sequence[Sample], logits_NK: Array) -> None:
    bad = np.flatnonzero(~np.isfinite(logits_NK).all(axis=1))
    if len(bad):
        first = samples[int(bad[0])]
        raise NumericError(
            "E-NUMERIC-LOGITS",
            f"the logits of {len(bad)} of {len(samples)} pictures are not finite",
            where=f"{split}: {first.path or first.sha256[:12]}",
            do="lower train.optimizer.lr, or set train.clip_grad_norm; the last checkpoint is intact",
        )
