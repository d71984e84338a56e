"""What any model repository lacks for somebody else to use and reproduce it: read from its listing and its small files.

Nothing is executed or unpickled; weights are not even fetched. Each rule has points; the score is the share of points kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hubtool.core.errors import HubtoolError
from hubtool.core.ids import RepoId
from hubtool.package import licenses, secrets
from hubtool.records.reports import LintFinding
from hubtool.records.yaml_loader import load_yaml

MAX_SMALL_BYTES = 2 << 20
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill")
# Pickles that hold whole objects, as those of fastai and scikit-learn do: there is no state_dict to convert.
_OBJECTS = (".pkl", ".pickle", ".joblib", ".dill")
# Pickles that a trainer leaves beside the weights.
_TRAINERS = re.compile(r"(.*/)?(training_args|optimizer|scheduler|scaler|rng_state(_\d+)?)\.(bin|pt|pth)")
# Weights that run, but that nobody fine-tunes in torch; those of Keras may hold code.
_OTHER_WEIGHTS = (".onnx", ".tflite", ".gguf", ".msgpack", ".h5", ".keras", ".pb", ".npz")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TEMPLATE = re.compile(r"\[?more information needed\]?", re.IGNORECASE)
_POINTER = b"version https://git-lfs.github.com/spec/"
_MAX_POINTER_BYTES = 1024
_SMALL = (".json", ".md", ".yaml", ".yml", ".txt", ".jsonl", ".toml", ".cfg", ".csv", ".py")
_PLACEHOLDER = re.compile(r"(LABEL|label|class|CLASS)_?\d+")


def is_small(path: str, size_bytes: int) -> bool:
    """Whether lint wants to read the file."""
    is_pointer = size_bytes <= _MAX_POINTER_BYTES and path.lower().endswith(
        (".safetensors", *_PICKLES, *_OTHER_WEIGHTS)
    )
    return is_pointer or (size_bytes <= MAX_SMALL_BYTES and path.lower().endswith(_SMALL))


@dataclass(frozen=True, kw_only=True)
class Repository:
    """``sizes``: path → bytes of every file; ``texts``: the small ones."""

    sizes: Mapping[str, int]
    texts: Mapping[str, bytes]

    def json(self, path: str) -> dict[str, Any]:
        try:
            value = json.loads(self.texts.get(path, b"{}"))
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def card(self) -> str:
        return self.texts.get("README.md", b"").decode("utf-8", "replace")

    @property
    def front(self) -> dict[str, Any]:
        match = re.match(r"---\s*\n(.*?\n)---\s*(\n|$)", self.card, re.DOTALL)
        try:
            value = load_yaml(match[1].encode(), "README.md").value if match else {}
        except HubtoolError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def num_outputs(self) -> str:
        """``"3 "`` where config.json tells it, else nothing."""
        config = self.json("config.json")
        labels = config.get("id2label")
        number = config.get("num_classes", len(labels) if isinstance(labels, dict) else None)
        return f"{number} " if isinstance(number, int) else ""

    def ending(self, *suffixes: str) -> list[str]:
        return sorted(path for path in self.sizes if path.lower().endswith(suffixes))


# A rule gives None where all is well, else (what is missing, the exact mend).
Verdict = tuple[str, str] | None
_CARD = "write into the front matter of README.md"


def _weights(repo: Repository) -> Verdict:
    weights = [path for path in repo.ending(".safetensors", *_PICKLES) if not _TRAINERS.fullmatch(path)]
    others = repo.ending(*_OTHER_WEIGHTS)
    pointers = [path for path in (*weights, *others) if repo.texts.get(path, b"").startswith(_POINTER)]
    if pointers:
        return (
            f"{pointers[0]} is a pointer of git-lfs, not the weights",
            "run `git lfs pull` where it was cloned from, and push what that brings",
        )
    if repo.ending(".safetensors"):
        return None
    if weights:
        return (
            f"the weights are a pickle ({weights[0]}): loading it can run code",
            _as_safetensors(weights[0]),
        )
    if others:
        return (
            f"nobody can train {others[0]} further in torch, and no other weights are here",
            "push the model.safetensors that it was made from beside it",
        )
    return "there are no weights", f"push {'adapter_' if _adapter(repo) else ''}model.safetensors"


def _as_safetensors(path: str) -> str:
    if _SHARD.search(path):
        return (
            "where you trust it, load it with transformers and save_pretrained() it; push the safetensors that writes"
        )
    if path.endswith("adapter_model.bin"):
        return f"hubtool convert {path}, and push the adapter_model.safetensors that writes in its place"
    if path.lower().endswith(_OBJECTS):
        return "where you trust it, load it and write its state_dict() with safetensors.torch.save_file; push that"
    return f"hubtool convert {path}, and push that as model.safetensors"


def _pickles(repo: Repository) -> Verdict:
    pickles = repo.ending(*_PICKLES)
    if not repo.ending(".safetensors"):
        pickles = [path for path in pickles if _TRAINERS.fullmatch(path)]
    if not pickles:
        return None
    left = [path for path in pickles if _TRAINERS.fullmatch(path)]
    mend = f"remove {pickles[0]}" if len(pickles) == 1 else "remove them"
    why = "what its trainer was told belongs into JSON" if left == pickles else "readers take the safetensors"
    return f"pickles beside the weights: {', '.join(pickles[:3])}", f"{mend}: {why}"


def _code(repo: Repository) -> Verdict:
    config = repo.json("config.json")
    if "auto_map" in config or "custom_pipelines" in config:
        return (
            "config.json asks its reader to run code of the repository",
            "use an architecture of timm or transformers",
        )
    programs = repo.ending(".py", ".so", ".dll", ".exe")
    return (
        (f"programs lie beside the weights: {programs[0]}", "keep code in a repository of its own")
        if programs
        else None
    )


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    """The section that hubtool writes where a library has no place for what a reader needs."""
    own = config.get("hubtool")
    return own if isinstance(own, dict) else {}


def _config(repo: Repository) -> Verdict:
    config = repo.json("config.json")
    named = [config, _own(config)]
    is_named = any(key in section for section in named for key in ("architecture", "architectures", "model_type"))
    if is_named or _adapter(repo).get("base_model_name_or_path"):
        return None
    what = "config.json names no architecture" if "config.json" in repo.sizes else "there is no config.json"
    return what, "push with timm, transformers or `hubtool push`: they write which network the weights belong to"


def _classes(repo: Repository) -> Verdict:
    config = repo.json("config.json")
    if _adapter(repo) and "config.json" not in repo.sizes:
        # A config.json of its own would make transformers take the directory for a whole model.
        return (
            None
            if "id2label" in repo.card
            else (
                "the class names are missing: an output is only a number",
                "show in README.md the from_pretrained(BASE, id2label={0: …}) that the adapter is put on",
            )
        )
    labels = config.get("label_names") or _own(config).get("classes")
    if labels is None and isinstance(config.get("id2label"), dict):
        labels = list(config["id2label"].values())
    is_timm = "architecture" in config
    names = f"{repo.num_outputs}names in the order of the outputs"
    if not labels:
        key = f'"label_names": [{names}]' if is_timm else f'"id2label": {{"0": …}} ({names})'
        return "the class names are missing: an output is only a number", f"add {key} to config.json"
    if all(_PLACEHOLDER.fullmatch(str(label)) for label in labels):
        return (
            f"the class names are placeholders ({next(iter(labels))})",
            f"replace them in config.json by {names}",
        )
    return None


def _preprocessing(repo: Repository) -> Verdict:
    config = repo.json("config.json")
    cfg = config.get("pretrained_cfg")
    own = _own(config).get("preprocess")
    known = [config, repo.json("preprocessor_config.json"), *(c for c in (cfg, own) if isinstance(c, dict))]
    if any(("mean" in c and "std" in c) or ("image_mean" in c and "image_std" in c) for c in known):
        return None
    timm = ", or mean, std, input_size, crop_pct and interpolation to pretrained_cfg of config.json"
    return (
        "size, mean and std of the input are nowhere",
        f"add preprocessor_config.json{'' if _adapter(repo) else timm}",
    )


def _card(repo: Repository) -> Verdict:
    if "README.md" not in repo.sizes:
        return "there is no card", "hubtool card makes one from a run; else write README.md"
    body = re.sub(r"\A---\n.*?\n---", "", repo.card, flags=re.DOTALL)
    if num_blank := len(_TEMPLATE.findall(body)):
        return (
            f"the card is a template, {num_blank} of its places blank",
            'fill in or remove each "More information needed" of README.md',
        )
    if len(body.split()) < 40:
        return (
            "the card says next to nothing",
            "say what it is, what it was trained on, what it gets, what it is not for",
        )
    return None if "```" in body else ("the card shows no usage", "add a snippet that was run")


def _license(repo: Repository) -> Verdict:
    name = repo.front.get("license")
    if not name:
        return "no licence: nobody may use it", f"{_CARD}: license: apache-2.0 (or the backbone's)"
    if not isinstance(name, str) or licenses.parse(name) is None:
        return (
            f"{name!r} is no licence identifier",
            f"{_CARD} one of the Hub's, or other with license_name and license_link",
        )
    return None


def _adapter(repo: Repository) -> dict[str, Any]:
    """What PEFT wrote of an adapter; empty for other models."""
    return repo.json("adapter_config.json")


def _is_elsewhere(name: object) -> bool:
    """Whether it names a directory of somebody's machine, which no repository of a hub can be called."""
    try:
        RepoId(str(name) if "/" in str(name) else f"of/{name}")
    except HubtoolError:
        return True
    return False


def _base(repo: Repository) -> Verdict:
    front, manifest, adapter = repo.front, repo.json("hubtool.json"), _adapter(repo)
    where = f"{_CARD}: base_model: OWNER/NAME and base_model_relation: {'adapter' if adapter else 'finetune'}"
    named = front.get("base_model")
    if adapter:  # its readers load what stands here, whatever the card says
        named = adapter.get("base_model_name_or_path")
        where = 'write into adapter_config.json "base_model_name_or_path": "OWNER/NAME"'
    if not named and not manifest.get("base_model"):
        return "the backbone is not named", where
    elsewhere = [name for name in (named if isinstance(named, list) else [named]) if name and _is_elsewhere(name)]
    if elsewhere:
        return f"the backbone is {elsewhere[0]}: nobody else has that directory", where
    pinned = repo.json("resolved.json").get("backbone", {})
    if isinstance(pinned, dict) and (pinned.get("files") or pinned.get("pretrained") is False):
        return None  # by the digest of each file, or there is nothing to pin
    revisions = (front.get("base_model_revision"), manifest.get("base_revision"), adapter.get("revision"))
    if any(_COMMIT.fullmatch(str(revision)) for revision in revisions):
        return None
    moving = next((f": {revision} can move" for revision in revisions if revision), "")
    where = 'write into adapter_config.json "revision":' if adapter else f"{_CARD}: base_model_revision:"
    return f"the backbone's revision is not pinned{moving}", f"{where} the commit it was loaded from"


def _data(repo: Repository) -> Verdict:
    if repo.front.get("datasets") or "data.json" in repo.sizes:
        return None
    return (
        "the training data are not named",
        f"{_CARD}: datasets: [OWNER/NAME]; for data of your own, list each picture's sha256",
    )


def _results(repo: Repository) -> Verdict:
    if repo.front.get("model-index") or any(p.startswith(".eval_results/") for p in repo.sizes):
        return None
    return (
        "no evaluation result that a program can read",
        f"{_CARD} a model-index: task, dataset with split, metric and value",
    )


def _evidence(repo: Repository) -> Verdict:
    names = [p for p in repo.sizes if re.search(r"(^|/)(evidence|predictions)", p)]
    return (
        None if names else ("nothing shows that the results are true", "push the predictions they were computed from")
    )


def _recipe(repo: Repository) -> Verdict:
    names = ("recipe.yaml", "resolved.json", "args.yaml", "training_args.json", "train_config.yaml")
    if any(p.rpartition("/")[2] in names for p in repo.sizes):
        return None
    pickled = " (training_args.bin is a pickle)" if "training_args.bin" in repo.sizes else ""
    return f"the hyperparameters are not there{pickled}", "push the recipe and every default with it, as YAML or JSON"


def _digests(repo: Repository) -> Verdict:
    if "hubtool.json" in repo.sizes:
        return None
    return "no list of digests: a reader cannot tell whether a file was changed", "hubtool push writes hubtool.json"


def _secrets(repo: Repository) -> Verdict:
    found = [secret for path, data in repo.texts.items() for secret in secrets.scan_bytes(data, path)]
    return (f"a secret: {found[0]}", "revoke it now, then remove it from the history too") if found else None


_Rule = tuple[str, int, Callable[[Repository], Verdict]]
RULES: tuple[_Rule, ...] = (
    ("safe weights", 15, _weights),
    ("no pickle beside", 5, _pickles),
    ("no code", 5, _code),
    ("architecture", 10, _config),
    ("class names", 10, _classes),
    ("preprocessing", 10, _preprocessing),
    ("card", 5, _card),
    ("licence", 10, _license),
    ("base model", 5, _base),
    ("training data", 5, _data),
    ("results", 5, _results),
    ("evidence", 5, _evidence),
    ("recipe", 5, _recipe),
    ("digests", 3, _digests),
    ("no secret", 2, _secrets),
)


def lint(sizes: Mapping[str, int], texts: Mapping[str, bytes]) -> tuple[tuple[LintFinding, ...], int]:
    """The findings in the order of the rules, and the score: the points of the rules kept, 100 in all. Pure."""
    repo = Repository(sizes=sizes, texts=texts)
    findings = []
    for name, points, rule in RULES:
        verdict = rule(repo)
        what, mend = verdict or ("", "")
        findings.append(LintFinding(name=name, is_ok=verdict is None, points=points, detail=what, mend=mend))
    return tuple(findings), sum(f.points for f in findings if f.is_ok)
