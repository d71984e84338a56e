"""verify names every tampering, sealed again or not, and raises no false alarm."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from hubtool.core.digests import sha256_file
from hubtool.core.errors import HubtoolError, IntegrityError, NotFoundError
from hubtool.hub.push import package_files
from hubtool.package import build, check
from hubtool.package import card as cards
from hubtool.package.facts import GOLDEN_NAME
from hubtool.package.tensors import packed_weights
from hubtool.records import reproductions
from hubtool.records.claims import judge
from hubtool.records.environment import differences
from hubtool.records.evidence import Golden, Predictions
from hubtool.records.package import MANIFEST_NAME, PackageManifest
from hubtool.records.run import Result
from package import made

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


def wrong(package: Path) -> dict[str, str]:
    """What verify finds wrong: name → detail."""
    return {finding.name: finding.detail for finding in check.verify(package) if not finding.is_ok}


def reseal(package: Path, *, card: bool = False) -> None:
    """What a careful forger does: new digests in hubtool.json, and a card compiled from the forged evidence."""
    manifest = PackageManifest.read(package / MANIFEST_NAME)
    if card:
        (package / "README.md").write_text(cards.render(package, layout=manifest.layout))
    manifest.model_copy(update={"files": build.file_digests(package)}).write(package / MANIFEST_NAME)


def edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(package: Path) -> None:
        text = (package / path).read_text()
        assert old in text, old
        (package / path).write_text(text.replace(old, new, 1))

    return change


def set_json(path: str, *keys: str | int, value: Any) -> Callable[[Path], None]:
    def change(package: Path) -> None:
        tree = json.loads((package / path).read_text())
        node = tree
        for key in keys[:-1]:
            node = node[key]
        assert node[keys[-1]] != value
        node[keys[-1]] = value
        (package / path).write_text(json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n")

    return change


def flip(path: str, offset: int) -> Callable[[Path], None]:
    def change(package: Path) -> None:
        data = bytearray((package / path).read_bytes())
        data[offset] ^= 1
        (package / path).write_bytes(bytes(data))

    return change


def one_prediction(package: Path) -> None:
    predictions = Predictions.read(package / made.PREDICTIONS)
    logits = predictions.logits_NK.copy()
    logits[0] = -logits[0]
    Predictions(split="val", samples=predictions.samples, targets=predictions.targets, logits_NK=logits).write(
        package / made.PREDICTIONS
    )


def one_target(package: Path) -> None:
    predictions = Predictions.read(package / made.PREDICTIONS)
    targets = predictions.targets.copy()
    targets[0] = (targets[0] + 1) % 7
    Predictions(split="val", samples=predictions.samples, targets=targets, logits_NK=predictions.logits_NK).write(
        package / made.PREDICTIONS
    )


def swap_samples(package: Path) -> None:
    p = Predictions.read(package / made.PREDICTIONS)
    samples = (p.samples[1], p.samples[0], *p.samples[2:])
    Predictions(split="val", samples=samples, targets=p.targets, logits_NK=p.logits_NK).write(
        package / made.PREDICTIONS
    )


def a_tensor(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def apply(package: Path) -> None:
        tensors = made.tensors()
        change(tensors)
        (package / "model.safetensors").write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))

    return apply


def other_weights(package: Path) -> None:
    a_tensor(last_bit)(package)
    packed_weights(package).write(package / "evidence" / "weights.json")


def nan(tensors: dict[str, np.ndarray]) -> None:
    tensors["fc.weight"][0, 0] = np.nan


def last_bit(tensors: dict[str, np.ndarray]) -> None:
    tensors["fc.bias"].view(np.uint32)[3] ^= 1


def add_file(name: str, data: bytes) -> Callable[[Path], None]:
    def change(package: Path) -> None:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes(data)

    return change


def on_the_command_line(*overrides: str) -> Callable[[Path], None]:
    def change(package: Path) -> None:
        with (package / "recipe.yaml").open("a") as stream:
            stream.writelines(f"# on the command line: {override}\n" for override in overrides)

    return change


def change_a_line(package: Path) -> None:
    edit("recipe.yaml", "epochs: 3", "epochs: 5")(package)
    on_the_command_line("train.epochs=9")(package)


def remove(name: str) -> Callable[[Path], None]:
    return lambda package: (package / name).unlink()


def duplicate_log_line(package: Path) -> None:
    path = package / "logs" / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().split(b"\n")[0] + b"\n")


def link(package: Path) -> None:
    (package / "logs" / "link").symlink_to("/etc/hostname")


def fifo(package: Path) -> None:
    os.mkfifo(package / "pipe")


def first_digit(pattern: str) -> Callable[[Path], None]:
    """Change the last digit of the first match in the card."""

    def change(package: Path) -> None:
        text = (package / "README.md").read_text()
        match = re.search(pattern, text)
        assert match is not None, pattern
        digit = text[match.end() - 1]
        assert digit.isdigit()
        (package / "README.md").write_text(text[: match.end() - 1] + str((int(digit) + 1) % 10) + text[match.end() :])

    return change


def append_person(text: str) -> Callable[[Path], None]:
    end = "<!-- yours:end about -->"
    return edit("README.md", end, f"{text}\n{end}")


def _drop_claim(package: Path) -> None:
    tree = json.loads((package / "result.json").read_text())
    tree["claims"] = [c for c in tree["claims"] if c["metric"] != "calibration_error"]
    (package / "result.json").write_text(json.dumps(tree))


def _log_at_the_packed_step(package: Path) -> None:
    """A better F1 in the row that the card shows in bold; the loss it was selected by is left alone."""
    path = package / "logs" / "metrics.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        if (event["split"], event["tag"], event["global_step"]) == ("val", "macro_f1", 18):
            event["value"] = 0.999
    path.write_text("".join(json.dumps(event, sort_keys=True, separators=(",", ":")) + "\n" for event in events))


def _golden_of_nothing(package: Path) -> None:
    golden = Golden.read(package / GOLDEN_NAME)
    logits = np.full_like(golden.tensor_logits_BK, np.nan)
    dataclasses.replace(golden, tensor_logits_BK=logits).write(package / GOLDEN_NAME)


def _select_by_another_value(package: Path) -> None:
    """The log and the result agree; the evidence does not."""
    value = json.loads((package / "result.json").read_text())["selected"]["value"]
    set_json("result.json", "selected", "value", value=value / 2)(package)
    path = package / "logs" / "metrics.jsonl"
    path.write_text(path.read_text().replace(f'"value":{value}', f'"value":{value / 2}'))


def _relicense(package: Path, license_: str) -> None:
    set_json("evidence/card.json", "license", value=license_)(package)
    set_json(MANIFEST_NAME, "license", value=license_)(package)


def reproduced(**changes: Any) -> Callable[[Path], None]:
    """A true record is counted by the card; then it is replaced by one that says something else under its name."""

    def change(package: Path) -> None:
        record = made.reproduction(package)
        made.add_reproduction(package, record)
        build.address(package, "me/zoo")
        assert wrong(package) == {}
        forged = record.model_copy(update=changes)
        forged.write(package / "reproductions" / f"{record.id}.json")

    return change


def a_record_that_contradicts_itself(package: Path) -> None:
    """Named by its digest, and counted by the card; but its weights were others."""
    honest = made.reproduction(package)
    forged = honest.model_copy(update={"measured_weights_digest": "0" * 64})
    made.add_reproduction(package, forged)
    _count(package, forged.id)


def a_record_of_another_result(package: Path) -> None:
    other = made.reproduction(package).model_copy(update={"data_digest": "0" * 64})
    made.add_reproduction(package, other)
    _count(package, other.id)


def _count(package: Path, record_id: str) -> None:
    text = cards.render(package, layout="timm", counted=(record_id,))
    assert record_id in text
    (package / "README.md").write_text(text)


def one_more_reproduction(package: Path) -> None:
    made.add_reproduction(package, made.reproduction(package))
    build.address(package, "me/zoo")
    edit("README.md", "Reproduced by 1 of 1 attempt", "Reproduced by 9 of 9 attempts")(package)


# name → (what is done, does the forger seal again, does he compile the card again, a finding that names it)
TAMPERINGS: dict[str, tuple[Callable[[Path], None], bool, bool, str]] = {
    # the card
    "headline": (first_digit(r"\*\*Top-1 accuracy \d\.\d{4}"), True, False, r"README.md line \d+"),
    "model-index value": (first_digit(r"value: \d\.\d+"), True, False, r"README.md model-index"),
    "interval": (first_digit(r"95 % interval \d\.\d{4}"), True, False, r"README.md line \d+"),
    "results table": (first_digit(r"\| ± \d\.\d{4}"), True, False, r"README.md line \d+"),
    "number of pictures": (first_digit(r"\| train \| \d+"), True, False, r"README.md line \d+"),
    "epoch table": (first_digit(r"\| \*\*2\*\* \| \*\*\d\.\d{4}"), True, False, r"README.md line \d+"),
    "learning rate": (first_digit(r"`train.optimizer.lr` \| 0\.05"), True, False, r"README.md line \d+"),
    "duration": (first_digit(r"Trained in 1 min 23"), True, False, r"README.md line \d+"),
    "version": (first_digit(r"\| torch \| 2\.15\.0"), True, False, r"README.md line \d+"),
    "parameters": (first_digit(r"8,397,319"), True, False, r"README.md line \d+"),
    "licence in the card": (
        edit("README.md", 'license: "apache-2.0"', "license: mit"),
        True,
        False,
        r"README.md license",
    ),
    "licence sentence": (edit("README.md", "apache-2.0, carried", "mit, carried"), True, False, r"README.md line \d+"),
    "base revision in the card": (
        edit("README.md", "491b427b45c94c7f", "591b427b45c94c7f"),
        True,
        False,
        r"README.md base_model_revision",
    ),
    "class in the card": (edit("README.md", "cat, dog", "dog, cat"), True, False, r"README.md line \d+"),
    "sentence added": (edit("README.md", "## Limits\n", "## Limits\n\nNone.\n"), True, False, r"README.md"),
    "front matter key": (
        edit("README.md", "library_name: timm\n", "library_name: timm\ninference: false\n"),
        True,
        False,
        r"README.md inference",
    ),
    "front matter broken": (edit("README.md", "tags:\n", "tags: [\n"), True, False, r"README.md front matter.*"),
    "no front matter": (edit("README.md", "---\n", ""), True, False, r"README.md"),
    "card not sealed": (first_digit(r"\| ± \d\.\d{4}"), False, False, r"README.md"),
    "script of a person": (append_person("<script>alert(1)</script>"), True, False, r"README.md about"),
    "remote picture of a person": (append_person("![x](https://e.example/x.png)"), True, False, r"README.md about"),
    "handler of a person": (append_person("<p onclick=x>y</p>"), True, False, r"README.md about"),
    # evidence and result
    "evidence that is none": (
        edit("result.json", "evidence/predictions-val.safetensors", "resolved.json"),
        True,
        False,
        "result.json",
    ),
    "evidence out of the package": (
        edit("result.json", "evidence/predictions-val.safetensors", "../../x"),
        True,
        False,
        "card",
    ),
    "one prediction": (one_prediction, False, False, r"evidence/predictions-val.safetensors"),
    "one prediction, sealed": (one_prediction, True, True, r"evidence/predictions-val.safetensors"),
    "one target": (one_target, True, True, r"evidence/predictions-val.safetensors"),
    "pictures swapped": (swap_samples, True, True, r"evidence/predictions-val.safetensors"),
    "claimed value": (set_json("result.json", "claims", 0, "value", value=0.99), True, True, r"result.json"),
    "tolerance": (set_json("result.json", "claims", 0, "tolerance", value=0.5), True, True, r"result.json"),
    "number of samples": (set_json("result.json", "claims", 0, "num_samples", value=6000), True, True, r"result.json"),
    "claimed split": (set_json("result.json", "claims", 0, "split", value="test"), True, True, r"result.json"),
    "a claim dropped": (_drop_claim, True, True, r"result.json"),
    "weights of another result": (
        set_json("result.json", "recipe_digest", value="0" * 64),
        True,
        True,
        r"resolved.json",
    ),
    "data digest": (set_json("result.json", "data_digest", value="0" * 64), True, True, r"data.json"),
    "backbone digest": (set_json("result.json", "backbone_digest", value="0" * 64), True, True, r"resolved.json"),
    "selected value": (set_json("result.json", "selected", "value", value=0.1), True, True, r"logs/metrics.jsonl"),
    "selected by a value that is not the evidence's": (_select_by_another_value, True, True, r"result.json"),
    "threshold where there is none": (set_json("result.json", "threshold", value=0.4), True, True, r"result.json"),
    "selected epoch": (set_json("result.json", "selected", "global_step", value=9), True, True, r"logs/metrics.jsonl"),
    "number of the epoch": (set_json("result.json", "selected", "epoch", value=3), True, True, r"result.json"),
    "name of the checkpoint": (
        set_json("result.json", "selected", "checkpoint", value="e003-s000027-val_loss=0.1"),
        True,
        True,
        r"result.json",
    ),
    "a better metric of the packed epoch": (_log_at_the_packed_step, True, True, r"logs/metrics.jsonl"),
    "fewer parameters trained": (
        set_json("result.json", "num_trainable", value=1),
        True,
        True,
        r"evidence/layers.json",
    ),
    "a smaller model": (set_json("result.json", "num_params", value=5_000_000), True, True, r"evidence/layers.json"),
    "parameters of a part": (
        set_json("evidence/layers.json", "rows", 1, "num_params", value=1),
        True,
        True,
        r"evidence/layers.json",
    ),
    "golden logits of nothing": (_golden_of_nothing, True, True, r"evidence/golden.safetensors"),
    "numerics": (set_json("environment.json", "numerics", "num_threads", value=64), True, True, r"environment.json"),
    "golden shape": (flip("evidence/golden.safetensors", -1), False, False, r"evidence/golden.safetensors"),
    # recipe and data
    "seed": (set_json("resolved.json", "train", "seed", value=7), True, True, r"resolved.json"),
    "learning rate of the recipe": (
        set_json("resolved.json", "train", "optimizer", "lr", value=0.5),
        True,
        True,
        r"resolved.json",
    ),
    "recipe.yaml": (edit("recipe.yaml", "lr: 0.05", "lr: 0.06"), False, False, r"recipe.yaml"),
    "recipe.yaml, sealed": (edit("recipe.yaml", "lr: 0.05", "lr: 0.06"), True, True, r"recipe.yaml"),
    "recipe of another backbone": (edit("recipe.yaml", "resnet18", "resnet34"), True, True, r"recipe.yaml"),
    "an override that was never applied": (on_the_command_line("train.epochs=9"), True, True, r"recipe.yaml"),
    "an override that was never applied, among others": (
        on_the_command_line("train.epochs=9", "run.card.title=Pets"),
        True,
        True,
        r"recipe.yaml",
    ),
    "a line of the command line": (change_a_line, True, True, r"recipe.yaml"),
    "recipe that is none": (edit("recipe.yaml", "freeze:", "freez:"), True, True, r"recipe.yaml.*"),
    "target of a picture": (set_json("data.json", "splits", "train", 0, "target", value=2), True, True, r"data.json"),
    "picture of the data": (
        set_json("data.json", "splits", "val", 0, "sha256", value="0" * 64),
        True,
        True,
        r"data.json",
    ),
    "class name in data.json": (set_json("data.json", "classes", 0, value="lion"), True, True, r"config.json"),
    "class name in config.json": (set_json("config.json", "label_names", 0, value="lion"), True, True, r"config.json"),
    "class names for transformers alone": (
        edit("config.json", "{", '{"id2label": {"0": "lion"},'),
        True,
        True,
        r"config.json",
    ),
    "class numbers for transformers alone": (
        edit("config.json", "{", '{"label2id": {"cat": 6, "dog": 0},'),
        True,
        True,
        r"config.json",
    ),
    "another network": (set_json("config.json", "architecture", value="resnet34"), True, True, r"config.json"),
    "an output more": (set_json("config.json", "num_classes", value=8), True, True, r"config.json"),
    "weights from elsewhere": (
        edit("config.json", '"pretrained_cfg": {', '"pretrained_cfg": {"url": "https://e.example/w.pth", '),
        True,
        True,
        r"config.json",
    ),
    "leaks that its lists do not have": (set_json("data.json", "num_leaked", value=5), True, True, r"data.json"),
    "another layout": (set_json(MANIFEST_NAME, "layout", value="transformers"), True, True, r"evidence/snippets.json"),
    "another data set": (
        set_json("evidence/card.json", "dataset", value="big/imagenet"),
        True,
        True,
        r".eval_results/hubtool.yaml",
    ),
    "preprocessing": (
        set_json("config.json", "pretrained_cfg", "mean", value=[0.5, 0.5, 0.5]),
        True,
        True,
        r"config.json",
    ),
    "remote code": (edit("config.json", "{", '{"auto_map": {},'), True, True, r"config.json"),
    "a name of the data": (
        set_json("data.json", "splits", "val", 0, "path", value="x/mine.png"),
        True,
        True,
        r"data.json",
    ),
    # weights
    "one byte of weights": (flip("model.safetensors", -1), False, False, r"model.safetensors"),
    "one bit of weights, sealed": (a_tensor(last_bit), True, True, r"model.safetensors"),
    "other weights, packed anew": (other_weights, True, True, r"evidence/weights.json"),
    "weights of another training": (
        set_json("result.json", "weights_digest", value="0" * 64),
        True,
        True,
        r"evidence/weights.json",
    ),
    "a tensor missing": (a_tensor(lambda t: t.pop("fc.bias")), True, True, r"model.safetensors"),
    "a tensor more": (a_tensor(lambda t: t.update(extra=np.ones(2, np.float32))), True, True, r"model.safetensors"),
    "NaN in the weights": (a_tensor(nan), True, True, r"model.safetensors"),
    "weights cut off": (lambda p: os.truncate(p / "model.safetensors", 300), True, True, r"model.safetensors"),
    "header longer than the file": (
        lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 64),
        True,
        True,
        r"model.safetensors",
    ),
    # licence and manifest
    "licence of the manifest": (set_json(MANIFEST_NAME, "license", value="mit"), False, False, r"hubtool.json"),
    "licence everywhere, looser than the base": (lambda p: _relicense(p, "cc0-1.0"), True, True, r"licence"),
    "base revision of the manifest": (
        set_json(MANIFEST_NAME, "base_revision", value="f" * 40),
        False,
        False,
        r"hubtool.json",
    ),
    "backbone's licence": (
        set_json("evidence/backbone.json", "license", value="mit"),
        False,
        False,
        r"evidence/backbone.json",
    ),
    "backbone's files": (
        set_json("evidence/backbone.json", "origin", "files", 0, "sha256", value="b" * 64),
        True,
        True,
        r"evidence/backbone.json",
    ),
    "path out of the package": (
        set_json(MANIFEST_NAME, "files", 0, "path", value="../README.md"),
        False,
        False,
        r"hubtool.json",
    ),
    "manifest cut off": (lambda p: os.truncate(p / MANIFEST_NAME, 100), False, False, r"hubtool.json"),
    # files
    "file missing": (remove("plots/curves.png"), False, False, r"plots/curves.png"),
    "evidence missing": (remove(made.PREDICTIONS), True, False, r"predictions-val.safetensors"),
    "file not listed": (add_file("notes.txt", b"x"), False, False, r"notes.txt"),
    "pickle": (add_file("model.bin", b"x"), True, False, r"model.bin"),
    "pickle by content": (add_file("logs/a.txt", b"\x80\x04\x95K\x00"), True, False, r"logs/a.txt"),
    "zip": (add_file("logs/a.txt", b"PK\x03\x04xx"), True, False, r"logs/a.txt"),
    "program": (add_file("modeling.py", b"import os"), True, False, r"modeling.py"),
    "secret": (add_file("logs/a.txt", f"one\n{TOKEN}".encode()), True, False, r"logs/a.txt:2"),
    "picture": (add_file("logs/batch.png", made.png()), True, False, r"logs/batch.png"),
    "picture in an event file": (
        add_file("logs/tensorboard/events.out.tfevents.1.x", made.record(made.png())),
        True,
        False,
        r"logs/tensorboard/events.*",
    ),
    "picture in a plot": (
        add_file("plots/roc.svg", b"<svg><image href='data:image/png;base64,AAAA'/></svg>"),
        True,
        False,
        r"plots/roc.svg",
    ),
    "plot of pictures": (add_file("plots/predictions.png", made.png()), True, False, r"plots/predictions.png"),
    "link": (link, False, False, r"files"),
    "pipe": (fifo, False, False, r"files"),
    "step twice in the log": (duplicate_log_line, True, True, r"logs/metrics.jsonl"),
    "log line of nonsense": (add_file("logs/metrics.jsonl", b"{}\n"), True, False, r"logs/metrics.jsonl.*"),
    # reproductions
    "a reproduction changed": (reproduced(repo="me/other"), True, False, r"reproductions/[0-9a-f]{16}.json"),
    "a reproduction that contradicts itself": (
        a_record_that_contradicts_itself,
        True,
        False,
        r"reproductions/[0-9a-f]{16}.json",
    ),
    "a reproduction of another result": (a_record_of_another_result, True, False, r"reproductions/[0-9a-f]{16}.json"),
    "more reproductions than there are": (one_more_reproduction, True, False, r"README.md line \d+"),
    "snippet": (edit("evidence/snippets.json", "import timm", "import os"), True, True, r"evidence/snippets.json"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_every_tampering_is_named(name: str, package: Path) -> None:
    change, is_sealed, is_card_made_again, wanted = TAMPERINGS[name]
    change(package)
    if is_sealed:
        try:
            reseal(package, card=is_card_made_again)
        except HubtoolError:
            reseal(package)
    found = wrong(package)
    assert any(re.fullmatch(wanted, finding) for finding in found), found


def test_a_byte_changed_in_any_file_is_named(clean: Path, package: Path) -> None:
    for file in build.read_manifest(clean).files:
        path = package / file.path
        good = path.read_bytes()
        path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
        assert file.path in wrong(package), file.path
        path.write_bytes(good)
    assert wrong(package) == {}


def test_a_person_may_write_between_the_markers(package: Path) -> None:
    append_person("Made for the *museum's* shop: see [the report](report.pdf), 12 % better. Commit " + "0af1" * 10)(
        package
    )
    assert wrong(package) == {}


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.epochs=3",),
        ("train.epochs=9", "train.epochs=3"),
        ("train.epochs=3", "run.card.title=Pets"),
        ("freeze.through=stage3",),
    ],
)
def test_what_was_said_on_the_command_line_is_part_of_the_recipe(overrides: tuple[str, ...], package: Path) -> None:
    on_the_command_line(*overrides)(package)
    reseal(package, card=True)
    assert wrong(package) == {}


@pytest.mark.parametrize(
    "name", [".gitattributes", ".cache/huggingface/download/x.metadata", "reproductions/0123456789abcdef.json"]
)
def test_what_a_hub_adds_is_no_finding(name: str, package: Path) -> None:
    add_file(name, b"{}")(package)
    assert wrong(package) == {}


@pytest.mark.parametrize("name", ["reproductions/abc-1.json", "reproductions/0123456789ABCDEF.json", "reproductions/x"])
def test_what_no_reproduction_is_called_is_unlisted_to_verify_and_push_alike(name: str, package: Path) -> None:
    add_file(name, b"{}")(package)
    assert name in wrong(package)
    with pytest.raises(IntegrityError, match=re.escape(f"{name} is not on the manifest")):
        package_files(package)


def test_a_record_with_findings_is_not_exact(package: Path) -> None:
    record, result = made.reproduction(package, findings=("the recipe differs",)), Result.read(package / "result.json")
    assert reproductions.problem(record, result) == "it says exact, its claims give within tolerance"
    honest = made.reproduction(package, findings=("the recipe differs",), state="within tolerance")
    assert reproductions.problem(honest, result) is None


def test_reproductions_are_counted_and_uncounted_ones_are_no_fault(package: Path) -> None:
    first = made.reproduction(package)
    numerics = first.verdict.claimed_numerics.model_copy(update={"num_threads": 64})
    second = made.reproduction(
        package,
        state="within tolerance",
        weights_equal=False,
        measured_numerics=numerics,
        numerics_differ=differences(first.verdict.claimed_numerics, numerics),
    )
    made.add_reproduction(package, first)
    made.add_reproduction(package, second)
    assert wrong(package) == {}
    details = {f.name: f.detail for f in check.verify(package)}
    assert details[f"reproductions/{first.id}.json"].startswith("not counted by the card yet")
    build.address(package, "me/zoo")
    assert wrong(package) == {}
    text = (package / "README.md").read_text()
    assert "**Reproduced by 2 of 2 attempts** ([1 exact, 1 within tolerance](#reproduce-it))." in text
    assert f"[{second.id[:8]}](reproductions/{second.id}.json) | within tolerance |" in text


def test_a_failed_attempt_is_counted_as_one(package: Path) -> None:
    claims = made.reproduction(package).verdict.claims
    missed = judge(claims[0].claim, claims[0].claim.value / 2)
    made.add_reproduction(
        package, made.reproduction(package, state="not reproduced", claims=(missed, *claims[1:]), weights_equal=False)
    )
    build.address(package, "me/zoo")
    assert (
        "**Reproduced by 0 of 1 attempt** ([1 not reproduced](#reproduce-it))." in (package / "README.md").read_text()
    )
    assert wrong(package) == {}


def test_no_false_alarm(tmp_path: Path) -> None:
    for seed in range(6):
        target = tmp_path / f"package{seed}"
        made.make_package(made.make_run(tmp_path / f"run{seed}", seed=seed, num_val=7 + 31 * seed), target)
        assert wrong(target) == {}


@pytest.mark.prove
def test_no_false_alarm_on_two_hundred_clean_packages(tmp_path: Path) -> None:
    for seed in range(200):
        run, target = tmp_path / "run", tmp_path / "package"
        made.make_package(made.make_run(run, seed=seed, num_val=7 + seed), target, with_names=bool(seed % 2))
        assert wrong(target) == {}
        shutil.rmtree(run)
        shutil.rmtree(target)


def test_what_is_no_package_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no package"):
        check.verify(tmp_path)


def test_the_digest_of_a_claim_is_that_of_its_file(clean: Path) -> None:
    claim = json.loads((clean / "result.json").read_text())["claims"][0]
    assert claim["evidence_sha256"] == sha256_file(clean / claim["evidence"])
