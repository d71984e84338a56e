from __future__ import annotations

from typing import Any

import pytest
import torch

from hubtool.core.errors import UsageError
from hubtool.records.backbone import Phase
from hubtool.records.recipe import Train
from hubtool.training.optim import (
    _placed,
    lay_beside,
    lr_at,
    make_optimizer,
    optimizer_state,
    restore_optimizer,
    set_lr,
)


def make_train(**changes: Any) -> Train:
    return Train.model_validate({"epochs": 10, "optimizer": {"name": "adamw", "lr": 1.0}} | changes)


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("cosine", {20: 1.0, 60: 0.55, 99: 0.1 + 0.9 * 0.000385}),
        ("linear", {20: 1.0, 60: 0.55, 99: 0.1 + 0.9 / 80}),
        ("constant", {20: 1.0, 60: 1.0, 99: 1.0}),
        ("step", {20: 1.0, 33: 1.0, 34: 0.1, 99: 0.1}),
    ],
)
def test_a_schedule_rises_over_the_warm_up_and_ends_at_min_lr(name: str, at: dict[int, float]) -> None:
    """Ten steps an epoch, two epochs of warm-up."""
    train = make_train(schedule={"name": name, "warmup_epochs": 2, "min_lr": 0.1})
    rising = [lr_at(train, step, 10) for step in range(20)]
    assert rising == sorted(rising)
    assert 0 < rising[0] < rising[-1] < 1
    for step, lr in at.items():
        assert lr_at(train, step, 10) == pytest.approx(lr, abs=1e-5)


def make_parameters() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a.weight": torch.nn.Parameter(torch.randn(4, 3)),
        "a.bias": torch.nn.Parameter(torch.randn(4)),
        "b.weight": torch.nn.Parameter(torch.randn(2, 4)),
    }


PHASE = Phase(first_epoch=0, num_epochs=1, trainable={"a.weight": 0.5, "a.bias": 0.5, "b.weight": 1.0})


def test_each_parameter_has_its_scale_and_biases_are_not_decayed() -> None:
    optimizer = make_optimizer(make_train(), make_parameters(), PHASE)
    set_lr(optimizer, 0.2)
    found = {name: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for name in g["names"]}
    assert found == {"a.weight": (0.1, 0.05), "a.bias": (0.1, 0.0), "b.weight": (0.2, 0.05)}


def step(optimizer: Any, parameters: dict[str, torch.Tensor], number: int) -> None:
    torch.manual_seed(number)
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


@pytest.mark.parametrize(
    "name", ["sgd", "momentum", "adamw", "lamb", "lion", "nadamw", "adafactor", "rmsprop", "adopt"]
)
def test_state_taken_out_and_put_back_goes_on_bit_for_bit(name: str) -> None:
    train = make_train(optimizer={"name": name, "lr": 0.01})
    ours, theirs = make_parameters(), make_parameters()
    whole = make_optimizer(train, ours, PHASE)
    first = make_optimizer(train, theirs, PHASE)
    for number in range(3):
        step(whole, ours, number)
        step(first, theirs, number)
    tensors, scalars = optimizer_state(first)
    copied = {key: value.clone() for key, value in tensors.items()}
    second = make_optimizer(train, theirs, PHASE)
    restore_optimizer(second, copied, dict(scalars))
    for number in range(3, 6):
        step(whole, ours, number)
        step(second, theirs, number)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_what_begins_to_train_later_starts_without_state_beside_what_goes_on() -> None:
    parameters, train = make_parameters(), make_train()
    head = Phase(first_epoch=0, num_epochs=1, trainable={"b.weight": 1.0})
    first = make_optimizer(train, parameters, head)
    step(first, parameters, 0)
    tensors, scalars = optimizer_state(first)
    second = make_optimizer(train, parameters, PHASE)
    restore_optimizer(second, tensors, scalars)
    assert set(optimizer_state(second)[0]) == {"b.weight/exp_avg", "b.weight/exp_avg_sq", "b.weight/step"}
    step(second, parameters, 1)


def test_an_unknown_optimizer_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="adamw") as caught:
        make_optimizer(make_train(optimizer={"name": "adamwx"}), make_parameters(), PHASE)
    assert caught.value.code == "E-OPTIMIZER"


def test_an_average_beside_a_parameter_without_state_is_no_state() -> None:
    """A parameter that has had no gradient yet has an average already."""
    parameters, train = make_parameters(), make_train()
    averages = {f"{name}/ema": value.detach().clone() for name, value in parameters.items()}
    optimizer = make_optimizer(train, parameters, PHASE)
    restore_optimizer(optimizer, averages, {})
    assert optimizer_state(optimizer)[0] == {}
    step(optimizer, parameters, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("name", ["adamw", "sgdw", "lamb"])
def test_a_moment_without_dimensions_lies_beside_its_parameter(name: str) -> None:
    scale = {"scale": torch.nn.Parameter(torch.tensor(2.0, device="cuda"))}
    phase, train = Phase(first_epoch=0, num_epochs=1, trainable={"scale": 1.0}), make_train(optimizer={"name": name})
    first = make_optimizer(train, scale, phase)
    step(first, scale, 0)
    tensors, scalars = optimizer_state(first)
    second = make_optimizer(train, scale, phase)
    restore_optimizer(second, {key: value.cpu() for key, value in tensors.items()}, scalars)
    step(second, scale, 1)


def test_only_a_step_counter_stays_where_it_is() -> None:
    """The meta device stands for a GPU."""
    parameter = torch.empty((), device="meta")
    assert _placed("exp_avg", torch.tensor(1.0), parameter).device.type == "meta"
    assert _placed("step", torch.tensor(1.0), parameter).device.type == "cpu"


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_a_gradient_that_lies_otherwise_than_its_parameter_is_not_misread(name: str) -> None:
    """As several processes sum it up: contiguous, beside a channels_last weight."""
    weight = torch.randn(8, 4, 3, 3)
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        parameter = torch.nn.Parameter(weight.clone(memory_format=memory_format))
        phase, train = Phase(first_epoch=0, num_epochs=1, trainable={"w": 1.0}), make_train(optimizer={"name": name})
        optimizer = make_optimizer(train, {"w": parameter}, phase)
        assert optimizer.param_groups[0]["fused"]
        for number in range(3):
            parameter.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
            lay_beside([parameter])
            optimizer.step()
        found.append(parameter.detach())
    torch.testing.assert_close(found[0], found[1])


def test_a_state_that_is_taken_up_is_a_copy() -> None:
    """The checkpoint that it was handed to may not be written yet when the next phase makes its first step."""
    parameters, train = make_parameters(), make_train()
    first = make_optimizer(train, parameters, PHASE)
    step(first, parameters, 0)
    tensors, scalars = optimizer_state(first)
    kept = {name: value.clone() for name, value in tensors.items()}
    handed = {name: value.clone() for name, value in tensors.items()}
    second = make_optimizer(train, parameters, PHASE)
    restore_optimizer(second, handed, scalars)
    step(second, parameters, 1)
    assert all(torch.equal(handed[name], value) for name, value in kept.items())


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw", "adam"])
def test_what_has_just_begun_to_train_steps_beside_what_trained_before(name: str) -> None:
    """In one group: two layers of the same lr scale, of which one has a momentum and the other none."""
    parameters, train = make_parameters(), make_train(optimizer={"name": name})
    head = sorted(parameters)[0]
    first = make_optimizer(train, parameters, Phase(first_epoch=0, num_epochs=1, trainable={head: 1.0}))
    parameters[head].grad = torch.ones_like(parameters[head])
    first.step()
    both = make_optimizer(
        train, parameters, Phase(first_epoch=1, num_epochs=1, trainable=dict.fromkeys(parameters, 1.0))
    )
    restore_optimizer(both, *optimizer_state(first))
    step(both, parameters, 0)
