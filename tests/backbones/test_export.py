from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hubtool.backbones import export, weights
from hubtool.core.errors import IntegrityError, UsageError
from tests.backbones.made import entry_of, pictures, resolved_of, test_resnet_directory, with_head


def _made(tmp_path: Path, **sections: Any) -> tuple[Any, Any, Path, int]:
    source = test_resnet_directory(tmp_path / "b")
    entry = entry_of(f"local:{source}")
    resolved = resolved_of(entry, **sections)
    model, _ = with_head(entry, source, resolved, 1 if resolved.task == "binary" else 3)
    with torch.no_grad():
        for parameter in model.get_submodule("fc").parameters():
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    package = tmp_path / "p"
    package.mkdir()
    return model.eval(), resolved, package, int(entry.num_classes or 0)


def test_unmodified_timm_and_transformers_load_a_linear_head(tmp_path: Path) -> None:
    import timm
    from transformers import AutoModelForImageClassification

    model, resolved, package, num_base = _made(tmp_path)
    assert export.export(model, resolved, ("ant", "bee", "cat"), package, num_base_classes=num_base) == "timm"
    x = pictures(resolved)
    with torch.no_grad():
        wanted = model(x)
        assert torch.equal(wanted, timm.create_model(f"local-dir:{package}", pretrained=True).eval()(x))
        other = AutoModelForImageClassification.from_pretrained(package).eval()
        assert torch.allclose(wanted, other(x).logits, rtol=1e-6, atol=1e-7)
    assert other.config.id2label == {0: "ant", 1: "bee", 2: "cat"}
    config = json.loads((package / "config.json").read_bytes())
    assert "num_classes" not in config.get("model_args", {})
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 64]


def test_an_appended_layer_is_folded(tmp_path: Path) -> None:
    model, resolved, package, num_base = _made(tmp_path, head={"mode": "append"})
    assert export.export(model, resolved, ("a", "b", "c"), package, num_base_classes=num_base) == "timm"
    state = load_file(package / "model.safetensors")
    assert state["fc.weight"].shape == (3, 96)
    x = pictures(resolved)
    with torch.no_grad():
        assert torch.allclose(model(x), export.load_package(package)(x), rtol=1e-4, atol=1e-5)


def test_binary_is_two_rows(tmp_path: Path) -> None:
    model, resolved, package, num_base = _made(tmp_path, task="binary")
    export.export(model, resolved, ("no", "yes"), package, num_base_classes=num_base)
    x = pictures(resolved)
    with torch.no_grad():
        logits = export.load_package(package)(x)
        assert torch.equal(logits[:, 0], torch.zeros(4))
        assert torch.allclose(logits.softmax(1)[:, 1], model(x).sigmoid()[:, 0])


@pytest.mark.parametrize("mode", ["replace", "append"])
@pytest.mark.parametrize("kind", ["mlp", "norm_linear", "cosine"])
def test_other_heads_travel_beside_their_backbone(tmp_path: Path, mode: str, kind: str) -> None:
    model, resolved, package, num_base = _made(tmp_path, head={"type": kind, "mode": mode})
    assert export.export(model, resolved, ("a", "b", "c"), package, num_base_classes=num_base) == "hubtool"
    assert {path.name for path in package.iterdir()} == {"model.safetensors", "head.safetensors", "config.json"}
    x = pictures(resolved)
    with torch.no_grad():
        assert torch.equal(model(x), export.load_package(package)(x))


def test_another_size_and_channel_count_come_back(tmp_path: Path) -> None:
    entry = entry_of("timm:test_vit")
    resolved = resolved_of(entry, pretrained=False, data={"img_size": 96, "in_chans": 1})
    model, _ = with_head(entry, None, resolved)
    assert export.export(model, resolved, ("a", "b", "c"), tmp_path, num_base_classes=1000) == "timm"
    assert json.loads((tmp_path / "config.json").read_bytes())["model_args"] == {"img_size": [96, 96], "in_chans": 1}


@pytest.mark.parametrize(("reference", "pool"), [("timm:test_resnet", "max"), ("timm:test_vit", "avg")])
def test_another_pooling_comes_back(tmp_path: Path, reference: str, pool: str) -> None:
    entry = entry_of(reference)
    resolved = resolved_of(entry, pretrained=False, head={"global_pool": pool})
    model, _ = with_head(entry, None, resolved)
    assert export.export(model, resolved, ("a", "b", "c"), tmp_path, num_base_classes=1000) == "timm"
    x = pictures(resolved)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), export.load_package(tmp_path)(x))


def test_class_names_must_fit_the_outputs(tmp_path: Path) -> None:
    model, resolved, package, num_base = _made(tmp_path)
    with pytest.raises(UsageError, match="3 outputs, the data 2"):
        export.export(model, resolved, ("a", "b"), package, num_base_classes=num_base)


def test_golden_logits_notice_a_changed_weight(tmp_path: Path) -> None:
    model, resolved, package, num_base = _made(tmp_path)
    export.export(model, resolved, ("a", "b", "c"), package, num_base_classes=num_base)
    x = pictures(resolved, 8)
    golden = export.golden(package, pictures_BCHW=x, input_seed=4, input_shape=(3, 64, 64))
    assert golden.tensor_logits_BK.shape == golden.picture_logits_BK.shape == (8, 3)
    assert export.check_golden(package, golden, pictures_BCHW=x) == 0.0
    state = load_file(package / "model.safetensors")
    state["fc.weight"][0, 0] += 0.5
    save_file(state, package / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="golden"):
        export.check_golden(package, golden, pictures_BCHW=x)
    assert np.isfinite(golden.tensor_logits_BK).all()


@pytest.mark.parametrize(
    ("name", "layout"), [("resnet18", "timm"), ("mobilenet_v2", "timm"), ("mobilenet_v3_small", "torchvision")]
)
def test_torchvision_travels_as_timm_where_that_is_lossless(tmp_path: Path, name: str, layout: str) -> None:
    entry = entry_of(f"torchvision:{name}")
    resolved = resolved_of(entry, pretrained=False, data={"img_size": 64})
    model, _ = with_head(entry, None, resolved)
    assert export.export(model, resolved, ("a", "b", "c"), tmp_path, num_base_classes=1000) == layout
    x = pictures(resolved)
    with torch.no_grad():
        assert torch.allclose(model.eval()(x), export.load_package(tmp_path)(x), rtol=1e-4, atol=1e-5)
    assert weights.load(tmp_path / "model.safetensors")
