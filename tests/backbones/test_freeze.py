from __future__ import annotations

from typing import Any

import pytest

from hubtool.backbones import freeze
from hubtool.core.errors import UsageError
from hubtool.records.backbone import Parts, Phase
from tests.backbones.made import entry_of, resolved_of, with_head


@pytest.fixture(scope="module")
def resnet() -> tuple[Any, Parts, Any]:
    entry = entry_of("timm:test_resnet")
    resolved = resolved_of(entry, pretrained=False)
    model, found = with_head(entry, None, resolved)
    return entry, found, model


def _phases(resnet: tuple[Any, Parts, Any], num_epochs: int = 6, **sections: Any) -> tuple[Phase, ...]:
    train = {"epochs": num_epochs, **sections.pop("train", {})}
    resolved = resolved_of(resnet[0], pretrained=False, train=train, **sections)
    return freeze.schedule(resolved, resnet[1], num_epochs=num_epochs)


def _trained_parts(parts: Parts, phase: Phase) -> list[str]:
    return [part.name for part in parts.parts if any(name in phase.trainable for name in part.parameters)]


@pytest.mark.parametrize(
    ("freezing", "trained"),
    [
        ("all", ["head"]),
        ("none", ["stem", "stage1", "stage2", "stage3", "stage4", "head"]),
        ({"through": "stage3"}, ["stage4", "head"]),
        ({"blocks": 2}, ["stage3", "stage4", "head"]),
        ({"fraction": 0.5}, ["stage3", "stage4", "head"]),
        ({"match": ["conv1.*", "bn1.*", "layer[12].*"]}, ["stage3", "stage4", "head"]),
    ],
)
def test_what_a_freeze_leaves_to_train(resnet: tuple[Any, Parts, Any], freezing: object, trained: list[str]) -> None:
    (phase,) = _phases(resnet, freeze=freezing)
    assert _trained_parts(resnet[1], phase) == trained


def test_an_unfreeze_schedule_and_layer_decay(resnet: tuple[Any, Parts, Any]) -> None:
    phases = _phases(
        resnet,
        freeze="all",
        unfreeze=[
            {"at_epoch": 2, "through": "stage3", "lr_scale": 0.5},
            {"at_epoch": 4, "through": "none", "lr_scale": 0.1},
        ],
        train={"layer_decay": 0.5},
    )
    assert [(phase.first_epoch, phase.num_epochs) for phase in phases] == [(0, 2), (2, 2), (4, 2)]
    assert phases[1].trainable["fc.weight"] == 1.0
    assert phases[1].trainable["layer4.0.conv1.weight"] == 0.5 * 0.5
    assert phases[2].trainable["layer4.0.conv1.weight"] == 0.5 * 0.5
    assert phases[2].trainable["conv1.0.weight"] == 0.1 * 0.5**5
    assert phases[2].eval_modules == ()


@pytest.mark.parametrize(
    ("sections", "code", "said"),
    [
        ({"freeze": {"through": "stage9"}}, "E-FREEZE-NOMATCH", "nearest: stage1"),
        ({"freeze": {"through": "layer3"}}, "E-FREEZE-NOMATCH", "layer3 is in stage3; write through: stage3"),
        ({"freeze": {"match": ["layer9.*"]}}, "E-FREEZE-NOMATCH", "nearest: layer1, layer2, layer3, layer4"),
        ({"freeze": {"blocks": 9}}, "E-FREEZE-NOMATCH", "the backbone has 4"),
        ({"freeze": {"through": "head"}}, "E-FREEZE-ALL", "nothing to train"),
        ({"freeze": {"match": ["*"]}}, "E-FREEZE-ALL", "nothing to train"),
        ({"freeze": "none", "unfreeze": [{"at_epoch": 1, "through": "stage1"}]}, "E-UNFREEZE-NOTHING", "thaws nothing"),
    ],
)
def test_a_name_that_names_nothing_is_an_error_with_the_nearest(
    resnet: tuple[Any, Parts, Any], sections: dict[str, Any], code: str, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        _phases(resnet, **sections)
    assert caught.value.code == code
    assert said in str(caught.value)


def test_applying_a_phase_sets_gradients_and_modes(resnet: tuple[Any, Parts, Any]) -> None:
    model = resnet[2]
    (phase,) = _phases(resnet, freeze={"through": "stage3"})
    freeze.apply(model, phase)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(phase.trainable)
    assert model.training
    assert model.fc.training
    assert model.layer4.training
    assert not any(m.training for m in model.layer3.modules())
    assert not model.bn1.training


def test_match_puts_only_wholly_frozen_modules_in_eval_mode(resnet: tuple[Any, Parts, Any]) -> None:
    model = resnet[2]
    (phase,) = _phases(resnet, freeze={"match": ["layer2.0.conv1.weight", "layer2.0.bn1.*"]})
    freeze.apply(model, phase)
    assert not model.layer2[0].bn1.training
    assert model.layer2[0].bn2.training
    assert model.layer1.training
