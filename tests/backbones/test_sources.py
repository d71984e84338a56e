from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hubtool.backbones import export, head, sources, weights
from hubtool.core.errors import IntegrityError, NotFoundError, NumericError, SecurityError, UsageError
from hubtool.core.refs import parse_backbone_ref
from hubtool.records.recipe import Head
from tests.backbones.made import entry_of, resolved_of, test_resnet_directory, with_head


def test_where_backbones_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sources.locate(parse_backbone_ref("timm:resnet18.a1_in1k")).repo_id == "timm/resnet18.a1_in1k"
    monkeypatch.setenv("HUBTOOL_TORCHVISION_URL", "http://127.0.0.1:9/models")
    place = sources.locate(parse_backbone_ref("torchvision:resnet18@IMAGENET1K_V1"))
    assert place.url == "http://127.0.0.1:9/models/resnet18-f37072fd.pth"


@pytest.mark.parametrize(
    ("reference", "near"),
    [
        ("timm:resnet5O", "timm:resnet50"),
        ("timm:resnet18.a1_in1", "timm:resnet18.a1_in1k"),
        ("torchvision:resnet5O", "torchvision:resnet50"),
        ("torchvision:resnet50@IMAGENET1K_V3", "torchvision:resnet50@IMAGENET1K_V2"),
    ],
)
def test_an_unknown_name_gives_the_nearest(reference: str, near: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        sources.locate(parse_backbone_ref(reference))
    assert near in str(caught.value)


def test_every_tag_of_timm_and_every_weights_of_torchvision_is_described_offline() -> None:
    import timm
    from torchvision.models import get_model_weights, list_models

    tags = timm.list_pretrained()
    assert len(tags) > 1500
    for name in tags:
        entry = entry_of(f"timm:{name}")
        assert entry.preprocess.img_size[0] > 0
        assert entry.origin.repo_id or entry.origin.url
    assert sum(entry_of(f"timm:{name}").license in (None, "cc-by-nc-4.0") for name in tags) > 90
    import torchvision.models

    for name in list_models(module=torchvision.models):
        for member in get_model_weights(name):
            entry = entry_of(f"torchvision:{name}@{member.name}")
            assert entry.ref == f"torchvision:{name}@{member.name}"
            assert entry.num_params
    assert entry_of("torchvision:vit_h_14@IMAGENET1K_SWAG_E2E_V1").license == "cc-by-nc-4.0"


def test_a_local_directory_is_built_with_its_weights(tmp_path: Path) -> None:
    directory = test_resnet_directory(tmp_path / "b")
    entry = entry_of(f"local:{directory}")
    assert (entry.library, entry.architecture, entry.num_classes) == ("timm", "test_resnet", 7)
    model = sources.build(entry, None, pretrained=True, preprocess=entry.preprocess)
    assert not model.training
    assert weights.state_digest(model.state_dict()) == weights.state_digest(load_file(directory / "model.safetensors"))


def test_random_weights_come_from_the_seed_and_leave_the_generator_alone() -> None:
    entry = entry_of("timm:test_vit")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two, other = (
        sources.build(entry, None, pretrained=False, preprocess=entry.preprocess, seed=seed).state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert weights.state_digest(one) == weights.state_digest(two) != weights.state_digest(other)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_are_never_loaded_silently(tmp_path: Path, fault: str) -> None:
    directory = test_resnet_directory(tmp_path / "b")
    path = directory / "model.safetensors"
    state = load_file(path)
    if fault == "missing":
        state = {name: tensor for name, tensor in state.items() if not name.startswith("layer4")}
    elif fault == "unexpected":
        state["layer9.weight"] = torch.zeros(2)
    else:
        state["layer1.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    save_file(state, path)
    entry = entry_of(f"local:{directory}")
    with pytest.raises(IntegrityError) as caught:
        sources.build(entry, directory, pretrained=True, preprocess=entry.preprocess)
    wanted = {"missing": "missing layer4", "unexpected": "unexpected layer9", "shape": "layer1.0.conv1.weight"}
    assert wanted[fault] in caught.value.what
    assert " of 92 tensors match" in caught.value.what


def test_nan_in_weights_names_the_tensor(tmp_path: Path) -> None:
    directory = test_resnet_directory(tmp_path / "b")
    state = load_file(directory / "model.safetensors")
    state["fc.bias"][4] = float("nan")
    save_file(state, directory / "model.safetensors")
    entry = entry_of(f"local:{directory}")
    with pytest.raises(NumericError, match=r"fc\.bias\[4\]"):
        sources.build(entry, directory, pretrained=True, preprocess=entry.preprocess)


@pytest.mark.parametrize("cut_at", [0, 5, 100, -8])
def test_a_damaged_file_is_an_integrity_error(tmp_path: Path, cut_at: int) -> None:
    path = test_resnet_directory(tmp_path / "b") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut_at])
    with pytest.raises(IntegrityError):
        weights.load(path)


def test_other_channels_and_sizes_are_adapted(tmp_path: Path) -> None:
    import timm

    directory = tmp_path / "v"
    directory.mkdir()
    model = timm.create_model("test_vit", num_classes=5)
    weights.save(model.state_dict(), directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({"architecture": "test_vit", "num_classes": 5}))
    entry = entry_of(f"local:{directory}")
    resolved = resolved_of(entry, data={"img_size": 96, "in_chans": 1})
    built = sources.build(entry, directory, pretrained=True, preprocess=resolved.preprocess)
    assert built(torch.zeros(1, 1, 96, 96)).shape == (1, 5)
    original = model.patch_embed.proj.weight.sum(dim=1, keepdim=True)
    assert torch.allclose(built.get_submodule("patch_embed.proj").weight, original)


def test_what_needs_code_of_its_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": {"AutoModel": "m.M"}}))
    with pytest.raises(SecurityError, match="code of its own"):
        entry_of(f"local:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"hidden": 3}))
    with pytest.raises(IntegrityError) as caught:
        entry_of(f"local:{tmp_path}")
    assert "PyTorchModelHubMixin" in caught.value.do
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(IntegrityError):
        entry_of(f"local:{tmp_path}")


def test_shards_stay_beside_their_index(tmp_path: Path) -> None:
    directory = test_resnet_directory(tmp_path / "b")
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"weight_map": dict.fromkeys(state, "../outside.safetensors")}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(IntegrityError, match="no shard beside"):
        weights.load_directory(directory, what="b")
    half = dict(list(state.items())[:10])
    save_file(half, directory / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(state, "model-00001-of-00001.safetensors")}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(IntegrityError, match="in no shard"):
        weights.load_directory(directory, what="b")


def test_torchvision_weights_load_strictly_and_without_auxiliary_heads(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    original = torchvision.models.googlenet(init_weights=False, aux_logits=True)
    weights.save(original.state_dict(), tmp_path / "model.safetensors")
    entry = entry_of("torchvision:googlenet")
    model = sources.build(entry, tmp_path, pretrained=True, preprocess=entry.preprocess)
    x = torch.randn(1, 3, 64, 64)
    original.transform_input = True
    with torch.no_grad():
        assert torch.equal(model(x), original.eval()(x))
    with pytest.raises(UsageError):
        sources.build(entry, None, pretrained=False, preprocess=entry.preprocess, drop_path=0.2)


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_a_package_with_a_head_beside_it_is_a_backbone(mode: str, tmp_path: Path) -> None:
    """Where the classifier was replaced it has none that torchvision could load; where a layer was appended it is there."""
    entry = entry_of("torchvision:shufflenet_v2_x0_5")
    resolved = resolved_of(entry, pretrained=False, head={"type": "mlp", "mode": mode}, data={"img_size": 64})
    model, _ = with_head(entry, None, resolved)
    assert export.export(model, resolved, ("a", "b", "c"), tmp_path, num_base_classes=1000) == "hubtool"
    again = entry_of(f"local:{tmp_path}")
    assert again.num_classes == (0 if mode == "replace" else 1000)
    built = sources.build(again, tmp_path, pretrained=True, preprocess=again.preprocess)
    assert torch.equal(built.get_parameter("conv5.0.weight"), model.get_parameter("conv5.0.weight"))
    appended = Head.model_validate({"mode": "append"})
    if mode == "replace":
        with pytest.raises(UsageError, match="no classifier to append to"):
            head.attach(built, appended, num_outputs=3, seed=0, library="torchvision")
    else:
        head.attach(built, appended, num_outputs=3, seed=0, library="torchvision")
