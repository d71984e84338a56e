"""lint on repositories in the shapes found in the wild; nothing of them is executed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from hubtool.core.errors import NotFoundError
from hubtool.jobs.lint import lint
from hubtool.package import lint as rules

SIGN = Path(tempfile.gettempdir(), "hubtool-lint-canary")  # of something having been executed
CANARY = f"cos\nsystem\n(S'touch {SIGN}'\ntR.".encode()
CARD = (
    "---\nlicense: mit\nbase_model: timm/resnet18.a1_in1k\n---\n# A model\n"
    + "It says something. " * 20
    + "\n```python\nx\n```\n"
)
TIMM_CONFIG = {
    "architecture": "resnet18",
    "num_classes": 2,
    "pretrained_cfg": {"mean": [0.5], "std": [0.5], "input_size": [3, 64, 64]},
}
TRANSFORMERS_CONFIG = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "id2label": {"0": "cat", "1": "dog"},
}
PREPROCESSOR = {"image_mean": [0.5], "image_std": [0.5], "size": 224}

# shape → (files, the rules that must find something)
WILD: dict[str, tuple[dict[str, bytes], set[str]]] = {
    "timm push": (
        {
            "model.safetensors": b"w",
            "pytorch_model.bin": CANARY,
            "config.json": json.dumps(TIMM_CONFIG).encode(),
            "README.md": CARD.encode(),
        },
        {"no pickle beside", "class names", "base model", "training data", "results", "evidence", "recipe", "digests"},
    ),
    "transformers push": (
        {
            "model.safetensors": b"w",
            "config.json": json.dumps(TRANSFORMERS_CONFIG).encode(),
            "preprocessor_config.json": json.dumps(PREPROCESSOR).encode(),
            "training_args.bin": CANARY,
            "README.md": CARD.replace("mit", "apache-2.0").encode(),
        },
        {"no pickle beside", "base model", "training data", "results", "evidence", "recipe", "digests"},
    ),
    "placeholder labels": (
        {
            "model.safetensors": b"w",
            "config.json": json.dumps(TRANSFORMERS_CONFIG | {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}).encode(),
            "preprocessor_config.json": json.dumps(PREPROCESSOR).encode(),
            "README.md": CARD.encode(),
        },
        {"class names", "base model", "training data", "results", "evidence", "recipe", "digests"},
    ),
    "bare pickle": (
        {"model.pth": CANARY},
        {r[0] for r in rules.RULES} - {"no pickle beside", "no code", "no secret"},
    ),
    "fastai export": (
        {"export.pkl": CANARY, "README.md": b"# fastai learner\n"},
        {r[0] for r in rules.RULES} - {"no pickle beside", "no code", "no secret"},
    ),
    "remote code": (
        {
            "model.safetensors": b"w",
            "config.json": json.dumps({"model_type": "mine", "auto_map": {"AutoModel": "modeling.Mine"}}).encode(),
            "modeling.py": f"open('{SIGN}', 'w')".encode(),
            "README.md": CARD.encode(),
        },
        {
            "no code",
            "class names",
            "preprocessing",
            "base model",
            "training data",
            "results",
            "evidence",
            "recipe",
            "digests",
        },
    ),
    "no card": (
        {"model.safetensors": b"w", "config.json": json.dumps(TIMM_CONFIG | {"label_names": ["a", "b"]}).encode()},
        {"card", "licence", "base model", "training data", "results", "evidence", "recipe", "digests"},
    ),
    "strange licence": (
        {"model.safetensors": b"w", "README.md": CARD.replace("mit", "do what you like").encode()},
        {
            "architecture",
            "class names",
            "preprocessing",
            "licence",
            "base model",
            "training data",
            "results",
            "evidence",
            "recipe",
            "digests",
        },
    ),
    "a secret": (
        {
            "model.safetensors": b"w",
            "README.md": CARD.encode(),
            "train.json": b'{"t": "hf_' + b"AbCdEfGhIjKlMnOpQrStUvWxYz01234567" + b'"}',
        },
        {
            "architecture",
            "class names",
            "preprocessing",
            "base model",
            "training data",
            "results",
            "evidence",
            "recipe",
            "digests",
            "no secret",
        },
    ),
    "broken files": (
        {"model.safetensors": b"w", "config.json": b"{" * 5000, "README.md": b"---\na: &x [*x]\n---\n\xff\xfe"},
        {
            "architecture",
            "class names",
            "preprocessing",
            "card",
            "licence",
            "base model",
            "training data",
            "results",
            "evidence",
            "recipe",
            "digests",
        },
    ),
    "empty": ({}, {r[0] for r in rules.RULES} - {"no pickle beside", "no code", "no secret"}),
}


@pytest.mark.parametrize("shape", WILD)
def test_each_shape_is_found_as_it_is(shape: str, tmp_path: Path) -> None:
    files, wanted = WILD[shape]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    report = lint(tmp_path)
    assert {f.name for f in report.findings if not f.is_ok} == wanted
    assert all(f.detail and f.mend for f in report.findings if not f.is_ok)
    assert report.score == 100 - sum(f.points for f in report.findings if not f.is_ok)
    assert not SIGN.exists()


def test_a_package_of_ours_has_every_point(clean: Path) -> None:
    report = lint(clean)
    assert [f.name for f in report.findings if not f.is_ok] == []
    assert report.score == 100


def test_a_base_model_that_is_no_repository_or_moves() -> None:
    def base(front: str) -> str:
        findings, _ = rules.lint({"README.md": 1}, {"README.md": f"---\n{front}\n---\n".encode()})
        return next(f.detail for f in findings if f.name == "base model")

    pin = f"\nbase_model_revision: {'a' * 40}"
    assert base("base_model: bert-base-uncased" + pin) == base("base_model: [timm/a, timm/b]" + pin) == ""
    assert base("base_model: ./out/best" + pin) == "the backbone is ./out/best: nobody else has that directory"
    assert base("base_model: [timm/a, C:\\out]" + pin) == "the backbone is C:\\out: nobody else has that directory"
    assert (
        base("base_model: timm/a\nbase_model_revision: v1.0") == "the backbone's revision is not pinned: v1.0 can move"
    )


def test_the_mend_of_pickled_shards_is_not_one_of_them() -> None:
    findings, _ = rules.lint({f"pytorch_model-0000{n}-of-00002.bin": 9 for n in (1, 2)}, {})
    assert "save_pretrained() it" in findings[0].mend


def test_the_points_are_a_hundred() -> None:
    assert sum(points for _, points, _ in rules.RULES) == 100


def test_what_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        lint(tmp_path / "nothing" / "here")
