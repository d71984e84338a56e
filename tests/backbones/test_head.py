from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hubtool.backbones import export, head, parts, sources, weights
from hubtool.core.errors import UsageError
from hubtool.records.recipe import Head
from tests.backbones.made import entry_of, resolved_of, test_resnet_directory, with_head


@pytest.mark.parametrize("mode", ["replace", "append"])
@pytest.mark.parametrize("kind", ["linear", "mlp", "norm_linear", "cosine"])
def test_only_the_head_is_new(tmp_path: Path, mode: str, kind: str) -> None:
    directory = test_resnet_directory(tmp_path / "b")
    entry = entry_of(f"local:{directory}")
    resolved = resolved_of(entry, head={"mode": mode, "type": kind})
    model, found = with_head(entry, directory, resolved)
    base = sources.build(entry, directory, pretrained=True, preprocess=entry.preprocess)
    was, now = weights.tensor_digests(base.state_dict()), weights.state_digest
    new = set(found.parts[-1].parameters)
    assert found.names()[-1] == "head"
    assert all(name.startswith("fc") for name in new)
    kept = {name.replace("fc.old.", "fc."): t for name, t in model.state_dict().items() if name not in new}
    assert all(was[name] == weights.tensor_digests({name: tensor})[name] for name, tensor in kept.items())
    again, _ = with_head(entry, directory, resolved)
    assert now(again.state_dict()) == now(model.state_dict())
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_another_seed_draws_another_head() -> None:
    entry = entry_of("timm:test_resnet")
    drawn = []
    for seed in (0, 1):
        model = sources.build(entry, None, pretrained=False, preprocess=entry.preprocess)
        head.attach(model, Head(), num_outputs=4, seed=seed, library="timm")
        drawn.append(model.get_submodule("fc").weight)
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("reference", ["timm:test_resnet", "timm:test_vit", "torchvision:mobilenet_v3_small"])
def test_the_head_drops_at_the_recipes_rate_and_nothing_else_does(reference: str) -> None:
    entry = entry_of(reference)
    for rate in (0.0, 0.5):
        model, found = with_head(entry, None, resolved_of(entry, pretrained=False, head={"drop_rate": rate}))
        model.train()
        for part in found.parts[:-1]:
            for path in part.modules:
                model.get_submodule(path).training = False
        x = torch.randn(2, 3, 96, 96) if "mobilenet" in reference else torch.randn(2, 3, *entry.preprocess.img_size)
        with torch.no_grad():
            assert torch.equal(model(x), model(x)) == (rate == 0.0)


def test_several_classifiers_each_get_a_head() -> None:
    entry = entry_of("timm:levit_128s")
    model, found = with_head(entry, None, resolved_of(entry, pretrained=False))
    assert [name for name in found.parts[-1].parameters if name.endswith("weight")] == [
        "head.linear.weight",
        "head_dist.linear.weight",
    ]
    with pytest.raises(UsageError, match="combines 2 classifiers"):
        with_head(entry, None, resolved_of(entry, pretrained=False, head={"type": "mlp"}))
    assert export.base_outputs(model, "timm") == 3


def test_a_model_without_classifier_gets_one_on_its_pooled_features() -> None:
    import timm

    name = next(n for n in ("vit_small_patch14_dinov2.lvd142m",) if n in timm.list_pretrained())
    entry = entry_of(f"timm:{name}")
    assert entry.num_classes == 0
    small = resolved_of(entry, pretrained=False, data={"img_size": 56})
    model, found = with_head(entry, None, small)
    assert model(torch.zeros(1, 3, 56, 56)).shape == (1, 3)
    assert found.parts[-1].parameters == ("head.weight", "head.bias")
    with pytest.raises(UsageError, match="no classifier to append to"):
        with_head(entry, None, resolved_of(entry, pretrained=False, head={"mode": "append"}, data={"img_size": 56}))


def test_global_pool_where_the_model_has_a_choice() -> None:
    entry = entry_of("timm:test_resnet")
    model, _ = with_head(entry, None, resolved_of(entry, pretrained=False, head={"global_pool": "max"}))
    assert model.global_pool.pool_type == "max"
    with pytest.raises(UsageError) as caught:
        with_head(entry, None, resolved_of(entry, pretrained=False, head={"global_pool": "nonsense"}))
    assert caught.value.code == "E-HEAD-POOL"
    other = entry_of("torchvision:resnet18")
    with pytest.raises(UsageError):
        with_head(other, None, resolved_of(other, pretrained=False, head={"global_pool": "max"}))


def test_frozen_names_stay_the_backbones_own() -> None:
    entry = entry_of("torchvision:squeezenet1_1")
    model, found = with_head(entry, None, resolved_of(entry, pretrained=False))
    assert isinstance(model, nn.Module)
    assert found.names()[0] == "stem"
    assert set(parts.find_parts(model, "torchvision").parts[-1].parameters) == {
        "classifier.1.layer.weight",
        "classifier.1.layer.bias",
    }
    with pytest.raises(UsageError, match="before its pooling"):
        with_head(entry, None, resolved_of(entry, pretrained=False, head={"type": "mlp"}))
