from __future__ import annotations

import json
from pathlib import Path

import pytest

from hubtool.core.errors import HubtoolError
from hubtool.records.recipe import Recipe
from hubtool.records.recipe_file import (
    find_recipe,
    load_recipe,
    overrides_of,
    parse_recipe,
    shipped_recipes,
    with_overrides,
    without_directory,
)

# (what is written, exit code, code, a part of the line)
BAD = [
    ("", 2, "E-RECIPE-EMPTY", "the file is empty"),
    ("- a", 2, "E-RECIPE-SHAPE", "mapping"),
    ("backbone: [1,", 2, "E-RECIPE-SYNTAX", "line 1, column"),
    ("backbone: x\ntrain:\n  epochs: 1\n  epochs: 2", 2, "E-RECIPE-DUP", "lines 3 and 4"),
    ("backbone: &a x\ntask: *a", 2, "E-RECIPE-ALIAS", "line 1"),
    ("backbone: !!python/object:os.system x", 6, "E-SEC-YAMLTAG", "python/object"),
    ("backbone: x\ntrain:\n  learing_rate: 1", 2, "E-RECIPE-KEY", "did you mean 'lr' (train.optimizer.lr)? – r.yaml line 3"),
    ("backbone: x\nrun: {save_every: 10 min}", 2, "E-RECIPE-VALUE", "epoch, a number of steps, or minutes as in 10min, got"),
    ("backbone: x\nrun: {save_every: 0min}", 2, "E-RECIPE-VALUE", "got '0min'"),
    ("backbone: x\nrun: {save_every: true}", 2, "E-RECIPE-VALUE", "got True"),
    ("backbone: x\nfreze: all", 2, "E-RECIPE-KEY", "did you mean 'freeze'?"),
    ("backbone: x\ntrain: {epochs: 'ten'}", 2, "E-RECIPE-VALUE", "train.epochs: expected an integer, got 'ten'"),
    ("backbone: x\ntrain: {epochs: 0}", 2, "E-RECIPE-VALUE", "train.epochs: expected ≥ 1, got 0"),
    ("backbone: x\ntrain: {batch_size: 0}", 2, "E-RECIPE-VALUE", "train.batch_size: expected ≥ 1"),
    ("backbone: x\ntrain: {optimizer: {lr: -1}}", 2, "E-RECIPE-VALUE", "train.optimizer.lr: expected > 0"),
    ("backbone: x\ntrain: {optimizer: {lr: .nan}}", 2, "E-RECIPE-VALUE", "train.optimizer.lr"),
    ("backbone: x\ntrain: {optimizer: {lr: .inf}}", 2, "E-RECIPE-VALUE", "train.optimizer.lr: expected a finite number"),
    ("backbone: x\ntrain: {optimizer: {lr: '1,5'}}", 2, "E-RECIPE-VALUE", "expected a number, got '1,5'"),
    ("backbone: x\ntrain: {schedule: {name: cosin}}", 2, "E-RECIPE-VALUE", "'cosine', 'linear', 'step' or 'constant'"),
    ("backbone: x\ntask: clasification", 2, "E-RECIPE-VALUE", "'classification', 'binary'"),
    ("backbone: x\nfreeze: {match: ['(a+)+$']}", 2, "E-FREEZE-PATTERN", "is no glob"),
    ("backbone: x\nfreeze: {thru: a}", 2, "E-RECIPE-VALUE", "did you mean 'through'?"),
    ("backbone: x\nfreeze: {through: a, blocks: 2}", 2, "E-RECIPE-VALUE", "one of"),
    ("backbone: x\nunfreeze: [{at_epoch: 3, through: b}, {at_epoch: 2, through: a}]", 2, "E-RECIPE-VALUE", "does not come after 3"),
    ("backbone: x\nunfreeze: [{at_epoch: 30, through: b}]", 2, "E-RECIPE-VALUE", "past the last of 10 epochs"),
    ("backbone: x\ndata: {labels: ../../x.csv}", 6, "E-PATH-INVALID", "leaves the data directory"),
    ("backbone: x\ntrain: {batch_size: 5, grad_accum_steps: 2}", 2, "E-RECIPE-VALUE", "does not divide"),
    ("backbone: x # hf_abcdefghijklmnopqrstuvwxyz", 6, "E-SEC-SECRET", "line 1"),
    ("schema: hubtool/recipe/v9\nbackbone: x", 2, "E-RECIPE-SCHEMA", "newer hubtool"),
    ("task: binary", 2, "E-RECIPE-MISSING", "'backbone' is missing"),
    ("a: " + "[" * 50 + "]" * 50, 2, "E-RECIPE-DEPTH", "nested deeper"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "exit_code", "code", "part"), BAD, ids=[f"{row[2]}-{i}" for i, row in enumerate(BAD)])
def test_a_bad_recipe_is_one_line_with_the_place(text: str, exit_code: int, code: str, part: str) -> None:
    with pytest.raises(HubtoolError) as caught:
        parse_recipe(text.encode(), "r.yaml")
    assert (caught.value.exit_code, caught.value.code) == (exit_code, code)
    assert part in caught.value.line()
    assert "\n" not in caught.value.line()


def test_the_overrides_at_the_end_of_a_runs_recipe_are_those_that_were_applied() -> None:
    written = b"\xef\xbb\xbfbackbone: x\r\n# on the command line: a comment of its own\r\ntask: binary"
    first = with_overrides(written, ("train.epochs=3", "run.card.title=B\u00e4r"))
    assert first.startswith(written + b"\n")
    assert overrides_of(first) == ("train.epochs=3", "run.card.title=B\u00e4r")
    second = with_overrides(first, ("train.epochs=4",))
    assert overrides_of(second) == ("train.epochs=4",)
    assert b"# on an earlier command line: train.epochs=3\n" in second
    assert overrides_of(with_overrides(second, ())) == ()
    assert with_overrides(written, ()) == written
    for text in (first, second):
        assert parse_recipe(text, "r.yaml", overrides_of(text)).task == "binary"


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("backbone: local:/home/me/net\ntask: binary\n", "backbone: local:net\ntask: binary\n"),
        ("backbone: local:/home/net/net # net\n", "backbone: local:net # net\n"),
        ("backbone: {ref: 'local:../secret place/net/', pretrained: true}\n", "backbone: {ref: 'local:net', pretrained: true}\n"),
        ("backbone: x\n# on the command line: backbone=local:~/net\n", "backbone: x\n# on the command line: backbone=local:net\n"),
        ("backbone: local:net\n", "backbone: local:net\n"),
        ("backbone: local:../proj/net/.\n", "backbone: local:net\n"),
        ("backbone: 'local:/home/me/net//./'\n", "backbone: 'local:net'\n"),
        ("backbone: local:/home/net/.cache/net\n", "backbone: local:net\n"),
    ],
)  # fmt: skip
def test_others_see_no_directory_of_this_machine(written: str, seen: str) -> None:
    assert without_directory(written, "local:net") == seen
    assert without_directory(written, "timm:resnet18") == written


def test_an_override_is_one_line() -> None:
    with pytest.raises(HubtoolError, match="is no override"):
        parse_recipe(b"backbone: x", "r.yaml", ("run.card.title=a\nb",))


def test_not_utf8_and_missing_and_directory(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"backbone: \xff")
    with pytest.raises(HubtoolError, match="byte 10"):
        load_recipe(tmp_path / "r.yaml")
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(HubtoolError) as caught:
            load_recipe(path)
        assert caught.value.code == "E-RECIPE-404"
    with pytest.raises(HubtoolError, match="did you mean linear-probe"):
        find_recipe("linear-prob")


def test_yaml_is_read_as_version_1_2() -> None:
    recipe = parse_recipe(b"backbone: x\ntrain: {optimizer: {lr: 1e-3}}\nrun: {card: {title: no, dataset: 12:30}}", "r")
    assert recipe.train.optimizer.lr == 0.001
    assert recipe.run.card.title == "no"
    assert recipe.run.card.dataset == "12:30"


def test_overrides_reach_any_key() -> None:
    recipe = parse_recipe(
        b"backbone: x\nfreeze: all",
        "r",
        ("train.epochs=3", "freeze.through=stage2", "backbone.pretrained=false", "unfreeze=[{at_epoch: 1, through: none}]"),
    )  # fmt: skip
    assert recipe.train.epochs == 3
    assert recipe.freeze.part == "stage2"
    assert (recipe.backbone.ref, recipe.backbone.pretrained) == ("x", False)
    assert recipe.unfreeze[0].through == "none"
    with pytest.raises(HubtoolError, match=r"PATH\.TO\.KEY=VALUE"):
        parse_recipe(b"backbone: x", "r", ("epochs 3",))


@pytest.mark.parametrize(
    "freeze", ["all", "none", {"through": "stage3"}, {"blocks": 9}, {"fraction": 0.8}, {"match": ["a.*"]}]
)
def test_freeze_is_written_back_as_it_was_typed(freeze: object) -> None:
    recipe = parse_recipe(json.dumps({"backbone": "x", "freeze": freeze}).encode(), "r")
    assert recipe.to_dict()["freeze"] == freeze
    assert Recipe.from_json(recipe.to_json(), "again") == recipe


def test_the_shipped_recipes_are_right() -> None:
    assert set(shipped_recipes()) == {"linear-probe", "last-stage", "full", "gradual"}
    for path in shipped_recipes().values():
        assert load_recipe(path).backbone.ref.startswith("bundled:")


@pytest.mark.parametrize(
    ("text", "steps", "seconds"), [("epoch", None, None), ("7", 7, None), ("10min", None, 600.0), ("1min", None, 60.0)]
)
def test_when_to_save(text: str, steps: int | None, seconds: float | None) -> None:
    run = parse_recipe(f"backbone: x\nrun: {{save_every: {text}}}".encode(), "r").run
    assert (run.save_every_steps, run.save_every_s) == (steps, seconds)
