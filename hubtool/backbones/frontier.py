"""Where the frozen prefix of a model ends: two halves that together are the model, bit for bit.

Shape legend: B batch, C channels, H, W pixels, K outputs.

The forward pass is traced (torch.fx, with timm's and torchvision's leaf modules); every node that depends on a
trainable parameter, or draws at random in train mode, is hot. Cold values that hot nodes read are what the prefix hands
over. The suffix is traced once in train and once in eval mode, for tracing bakes ``training=`` of functional calls in.
Both halves call the model's own modules: parameters, buffers and modes are shared.
Where tracing fails the model is cut at a module boundary instead (``replay``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from hubtool.backbones import fingerprint, freeze, replay, trace
from hubtool.records.backbone import Phase

Features = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Uncut:
    """The model trains as a whole; ``reason`` says why."""

    reason: str


class _Suffix(Protocol):
    def __call__(self, feats: Features, *, training: bool) -> Tensor: ...


class Cut:
    """A model in two halves.

    ``key`` is of all that the prefix computes: equal keys on equal frozen weights mean equal features.
    ``description`` is for people.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        phase: Phase,
        prefix: Callable[[Tensor], Features],
        suffix: _Suffix,
        key: str,
        description: str,
    ) -> None:
        self._model = model
        self._phase = phase
        self._prefix = prefix
        self._suffix = suffix
        self._copies = False
        self.key = key
        self.description = description

    def prefix(self, x_BCHW: Tensor) -> Features:
        """The frozen part in eval mode without gradients; every tensor returned has B as its first dimension."""
        self._set_mode(training=False)
        with torch.no_grad():
            return self._prefix(x_BCHW)

    def suffix(self, feats: Features, *, training: bool) -> Tensor:
        """logits_BK from what ``prefix`` returned; gradients flow into the model's own trainable parameters."""
        self._set_mode(training=training)
        own = tuple(feat.clone() for feat in feats) if self._copies else feats
        return self._suffix(own, training=training)

    def keep_features(self) -> None:
        """From now on the suffix works on copies: its first layer writes into its input."""
        self._copies = True

    def _set_mode(self, *, training: bool) -> None:
        if self._model.training == training:
            return
        if training:
            freeze.set_modes(self._model, self._phase)
        else:
            self._model.eval()


def cut(model: nn.Module, phase: Phase, sample_x_BCHW: Tensor) -> Cut | Uncut:
    """Cut ``model`` for ``phase``; the sample (any B ≥ 1) only shows shapes and serves to check the cut.

    The modes and ``requires_grad`` of the model are left as ``freeze.apply`` sets them.
    """
    if set(phase.trainable) >= {name for name, _ in model.named_parameters()}:
        return Uncut(reason="nothing is frozen")
    freeze.apply(model, phase)
    probe = sample_x_BCHW.detach()
    probe = torch.cat([probe, probe, probe])[:3] if len(probe) < 3 else probe[:3]
    reasons = []
    for method in (_by_trace, _by_replay):
        try:
            found = method(model, phase, probe)
            _check(found, model, probe)
            freeze.set_modes(model, phase)
            return found
        except trace.CannotCut as error:
            reasons.append(str(error))
    freeze.set_modes(model, phase)
    return Uncut(reason="; ".join(dict.fromkeys(reasons)))


def _check(found: Cut, model: nn.Module, x_BCHW: Tensor) -> None:
    model.eval()
    with torch.no_grad():
        whole = model(x_BCHW)
        whole = getattr(whole, "logits", whole)
        feats = found.prefix(x_BCHW)
        before = tuple(feat.clone() for feat in feats)
        halves = found.suffix(feats, training=False)
        if not all(torch.equal(a, b) for a, b in zip(feats, before, strict=True)):
            found.keep_features()
    if not torch.equal(whole, halves):
        raise trace.CannotCut("prefix and suffix do not give the model's own bits")


def _by_trace(model: nn.Module, phase: Phase, x_BCHW: Tensor) -> Cut:
    freeze.set_modes(model, phase)
    train = trace.trace(model)
    hot = trace.hot_nodes(train, model, set(phase.trainable))
    model.eval()
    halves = trace.Halves(train, trace.trace(model), hot, x_BCHW)
    return Cut(
        model=model,
        phase=phase,
        prefix=halves.prefix,
        suffix=halves.suffix,
        key=fingerprint.of_graph(halves.head, model.state_dict())[:16],
        description=f"before {halves.first_hot}",
    )


def _by_replay(model: nn.Module, phase: Phase, x_BCHW: Tensor) -> Cut:
    boundary = replay.find_boundary(model, phase, x_BCHW)
    return Cut(
        model=model,
        phase=phase,
        prefix=boundary.prefix,
        suffix=boundary.suffix,
        key=fingerprint.of_modules(model, boundary.path, phase.trainable)[:16],
        description=f"at the module {boundary.path}",
    )
