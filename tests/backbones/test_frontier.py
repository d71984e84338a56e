from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from hubtool.backbones import freeze, frontier
from hubtool.records.backbone import Phase
from tests.backbones.made import entry_of, pictures, resolved_of, with_head


@pytest.mark.parametrize(
    "reference", ["timm:test_resnet", "timm:test_vit", "timm:test_efficientnet", "torchvision:shufflenet_v2_x0_5"]
)
@pytest.mark.parametrize("freezing", ["all", "middle"])
def test_both_halves_are_the_model_bit_for_bit(reference: str, freezing: str) -> None:
    entry = entry_of(reference)
    resolved = resolved_of(
        entry, pretrained=False, data={"img_size": entry.preprocess.img_size[0] if "vit" in reference else 64}
    )
    model, found = with_head(entry, None, resolved)
    middle = found.names()[len(found.parts) // 2 - 1]
    chosen = "all" if freezing == "all" else {"through": middle}
    wanted = resolved_of(entry, pretrained=False, freeze=chosen, data={"img_size": resolved.preprocess.img_size[0]})
    (phase,) = freeze.schedule(wanted, found, num_epochs=1)[:1]
    freeze.apply(model, phase)
    x = pictures(resolved, 4)
    cut = frontier.cut(model, phase, x)
    assert isinstance(cut, frontier.Cut)
    assert all(feat.shape[0] == 4 for feat in cut.prefix(x))
    with torch.no_grad():
        assert torch.equal(model.eval()(x), cut.suffix(cut.prefix(x), training=False))
    _check_training(model, phase, cut, x)


def _check_training(model, phase, cut, x) -> None:  # type: ignore[no-untyped-def]
    """In train mode the suffix gives the logits, gradients and statistics of the whole model."""
    twin = copy.deepcopy(model)
    freeze.apply(twin, phase)
    whole = twin(x)
    whole.sum().backward()
    feats = cut.prefix(x)
    kept = [feat.clone() for feat in feats]
    halves = cut.suffix(feats, training=True)
    halves.sum().backward()
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(feats, kept, strict=True))
    assert torch.equal(whole, halves)
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        assert mine.grad is None or torch.allclose(mine.grad, theirs.grad, rtol=1e-5, atol=1e-7), name
    for (name, mine), theirs in zip(model.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(mine, theirs), name


def test_the_suffix_drops_out_in_train_mode_only() -> None:
    entry = entry_of("timm:test_vit")
    resolved = resolved_of(entry, pretrained=False, head={"drop_rate": 0.5})
    model, found = with_head(entry, None, resolved)
    (phase,) = freeze.schedule(resolved, found, num_epochs=1)
    cut = frontier.cut(model, phase, pictures(resolved))
    assert isinstance(cut, frontier.Cut)
    feats = cut.prefix(pictures(resolved))
    assert [tuple(f.shape) for f in feats] == [(4, 64)]
    assert not torch.equal(cut.suffix(feats, training=True), cut.suffix(feats, training=True))
    assert torch.equal(cut.suffix(feats, training=False), cut.suffix(feats, training=False))


def test_drop_path_of_a_trained_part_does_not_reach_the_prefix() -> None:
    from hubtool.backbones import head, parts, sources

    entry = entry_of("timm:test_vit")
    resolved = resolved_of(entry, pretrained=False, freeze={"blocks": 3})
    model = sources.build(entry, None, pretrained=False, preprocess=entry.preprocess, drop_path=0.5)
    head.attach(model, resolved.head, num_outputs=3, seed=0, library="timm")
    (phase,) = freeze.schedule(resolved, parts.find_parts(model, "timm"), num_epochs=1)
    x = pictures(resolved, 8)
    cut = frontier.cut(model, phase, x)
    assert isinstance(cut, frontier.Cut)
    assert all(torch.equal(a, b) for a, b in zip(cut.prefix(x), cut.prefix(x), strict=True))
    feats = cut.prefix(x)
    torch.manual_seed(0)
    one = cut.suffix(feats, training=True)
    assert not torch.equal(one, cut.suffix(feats, training=True))


def test_the_key_names_the_cut() -> None:
    entry = entry_of("timm:test_resnet")
    keys = {}
    for freezing in ("all", "stage2", "stage3"):
        resolved = resolved_of(entry, pretrained=False, freeze="all" if freezing == "all" else {"through": freezing})
        model, found = with_head(entry, None, resolved)
        cut = frontier.cut(model, freeze.schedule(resolved, found, num_epochs=1)[0], pictures(resolved))
        assert isinstance(cut, frontier.Cut)
        keys[freezing] = cut.key
    assert len(set(keys.values())) == 3


def test_what_cannot_be_cut_says_why() -> None:
    entry = entry_of("timm:test_resnet")
    for freezing, reason in (("none", "nothing is frozen"), ({"match": ["layer4.*"]}, "reads the picture itself")):
        resolved = resolved_of(entry, pretrained=False, freeze=freezing)
        model, found = with_head(entry, None, resolved)
        found_cut = frontier.cut(model, freeze.schedule(resolved, found, num_epochs=1)[0], pictures(resolved))
        assert isinstance(found_cut, frontier.Uncut)
        assert reason in found_cut.reason


def _keyed(model: nn.Module) -> str:
    """The key of a model of which only ``head`` is trained."""
    torch.manual_seed(0)
    phase = Phase(first_epoch=0, num_epochs=1, trainable={"head.weight": 1.0, "head.bias": 1.0}, eval_modules=())
    found = frontier.cut(model, phase, torch.rand(3, 3, 8, 8))
    assert isinstance(found, frontier.Cut), found.reason
    return found.key


class _Small(nn.Module):
    """``options`` are no weights: they change what it computes and none of its names."""

    def __init__(
        self, *, eps: float = 1e-5, function: Any = torch.relu, scale: float = 1.0, is_traced: bool = True
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4, eps=eps), _Scaled(function, scale))
        self.head = nn.Linear(4, 2)
        self.is_traced = is_traced

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x).mean((2, 3))
        if not self.is_traced and x.isnan().any():
            raise ValueError("what torch.fx cannot trace")
        return self.head(x)


class _Scaled(nn.Module):
    def __init__(self, function: Any, scale: float) -> None:
        super().__init__()
        self.function, self.scale = function, scale
        self.register_buffer("shift", torch.full((1,), scale), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x) * self.scale


@pytest.mark.parametrize("is_traced", [True, False])
def test_the_key_is_of_all_that_the_prefix_computes_not_of_names_alone(is_traced: bool) -> None:
    plain = {"is_traced": is_traced}
    changes = ({"eps": 1e-3}, {"function": torch.sigmoid}, {"scale": 2.0})
    keys = [_keyed(_Small(**plain)), *(_keyed(_Small(**plain, **change)) for change in changes)]  # type: ignore[arg-type]
    assert len(set(keys)) == 4
    assert _keyed(_Small(**plain)) == keys[0]


def test_two_poolings_have_two_keys() -> None:
    entry = entry_of("timm:test_resnet")
    keys = []
    for pool in ("avg", "max", "avg"):
        resolved = resolved_of(entry, pretrained=False, head={"global_pool": pool})
        model, found = with_head(entry, None, resolved)
        cut = frontier.cut(model, freeze.schedule(resolved, found, num_epochs=1)[0], pictures(resolved))
        assert isinstance(cut, frontier.Cut)
        keys.append(cut.key)
    assert keys[0] == keys[2] != keys[1]
