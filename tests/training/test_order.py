from __future__ import annotations

import pytest

from hubtool.training.order import Plan, plain_batches


def make_plan(**changes: object) -> Plan:
    fields: dict[str, object] = {"num_samples": 23, "batch_size": 8, "grad_accum_steps": 2, "seed": 3}
    return Plan(**{**fields, **changes})  # type: ignore[arg-type]


def test_an_epoch_sees_every_sample_once_and_the_next_in_another_order() -> None:
    plan = make_plan()
    epochs = []
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        epochs.append([sample for step in steps for part in plan.step(step) for sample in part.samples])
    assert [sorted(order) for order in epochs] == [list(range(23))] * 2
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ("num_samples", "steps", "last_sizes"),
    [(16, 2, [4, 4]), (21, 3, [3, 2]), (18, 3, [2]), (17, 2, [4, 4]), (1, 1, [1]), (7, 1, [4, 3])],
)
def test_the_incomplete_last_step_is_kept_unless_it_is_one_lone_picture(
    num_samples: int, steps: int, last_sizes: list[int]
) -> None:
    plan = make_plan(num_samples=num_samples)
    assert plan.steps_per_epoch == steps
    assert [len(part.samples) for part in plan.step(steps - 1)] == last_sizes


def test_processes_share_out_the_same_micro_batches() -> None:
    plan = make_plan(grad_accum_steps=4)
    alone = {(b.global_step, b.index): b for b in plan.steps(0, 6)}
    shared = [b for rank in range(2) for b in plan.steps(0, 6, rank=rank, num_processes=2)]
    assert {(b.global_step, b.index): b for b in shared} == alone
    assert len(shared) == len(alone)


def test_views_come_round_and_fresh_draws_do_not() -> None:
    viewed, fresh = make_plan(policy="light", views=2), make_plan(policy="light")
    assert viewed.draw(0) == viewed.draw(2) != viewed.draw(1)
    assert fresh.draw(0) != fresh.draw(2)
    assert (viewed.is_fixed, fresh.is_fixed, make_plan().is_fixed) == (True, False, True)


def test_the_order_is_the_same_on_every_machine() -> None:
    """The order is part of what a recipe means: it must not move with a version of numpy."""
    assert [s for part in make_plan(num_samples=9).step(0) for s in part.samples] == [8, 0, 4, 6, 7, 2, 5, 1]


def test_evaluation_takes_every_sample_in_order() -> None:
    batches = list(plain_batches(10, 4))
    assert [b.samples for b in batches] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert {a.purpose for b in batches for a in b.addresses} == {"plain"}
