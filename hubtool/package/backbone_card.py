"""The card of a backbone in a registry: what the entry says, in words, and how to use it with hubtool.

The text down to ``END`` is a function of the entry alone; what stands below is a person's and is kept.
"""

from __future__ import annotations

from hubtool.records.backbone import BackboneEntry, Preprocess

END = "<!-- The part above is generated from registry.json; write below this line. -->"

_PLACES = {
    "timm": "timm's weights on the Hugging Face Hub",
    "torchvision": "torchvision's own download server",
    "hf": "a repository on the Hugging Face Hub",
}


def render(name: str, entry: BackboneEntry, before: str = "") -> str:
    """The card as Markdown; ``before`` is the card as it stands, whose hand-written part is carried over."""
    _, _, by_hand = before.partition(END)
    return generated(name, entry) + (by_hand or "\n")


def differs(name: str, entry: BackboneEntry, text: str) -> str | None:
    """What in ``text`` is not what ``entry`` says: its first line that differs; None when they agree."""
    wanted, found = generated(name, entry).splitlines(), text.splitlines()
    for number, line in enumerate(wanted):
        if number >= len(found):
            return f"line {number + 1} is missing: {line!r}"
        if found[number] != line:
            return f"line {number + 1} reads {found[number]!r}, the registry says {line!r}"
    return None


def generated(name: str, entry: BackboneEntry) -> str:
    """The part that is a function of the entry."""
    front = [
        "---",
        f'license: "{entry.license}"' if entry.license else 'license: "unknown"',
        f'library_name: "{entry.library}"',
        f'pipeline_tag: "{"image-classification" if entry.num_classes else "image-feature-extraction"}"',
        "---",
    ]
    rows = [("Reference", f"`{entry.ref}`"), ("Architecture", f"`{entry.architecture}` ({entry.library})")]
    rows += [("Licence", _license(entry)), ("Parameters", _parameters(entry))]
    rows += [("Features", "unknown" if entry.num_features is None else f"{entry.num_features:,}")]
    rows += [("Input", _input(entry.preprocess)), ("Preprocessing", _preprocessing(entry.preprocess))]
    rows += [("Weights", _place(entry)), ("Digests", _digests(entry))]
    table = ["| | |", "| --- | --- |", *(f"| {title} | {text} |" for title, text in rows)]
    files = [f"- `{file.path}`: {file.size_bytes:,} bytes, sha256 `{file.sha256}`" for file in entry.origin.files]
    use = ["```", *_use(name, entry), "```"]
    blocks = [front, [f"# {name}"], table, files, ["## Use"], use, [END]]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _license(entry: BackboneEntry) -> str:
    if entry.license:
        return entry.license
    return "not stated by the source: find it out, and name it in `run.card.license` before you push"


def _parameters(entry: BackboneEntry) -> str:
    if entry.num_params is None:
        return "unknown"
    head = f"with its head of {entry.num_classes:,} classes" if entry.num_classes else "without a head"
    return f"{entry.num_params:,} {head}"


def _input(preprocess: Preprocess) -> str:
    height, width = preprocess.img_size
    return f"{preprocess.in_chans} x {height} x {width}"


def _preprocessing(preprocess: Preprocess) -> str:
    height, width = preprocess.img_size
    if preprocess.crop_mode == "center":
        short = int(min(height, width) / preprocess.crop_pct)
        shape = f"shorter side to {short}, centre crop of {height} x {width}"
    elif preprocess.crop_mode == "squash":
        shape = f"squashed to {height} x {width}"
    else:
        shape = f"longer side to {max(height, width)}, borders filled"
    mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (preprocess.mean, preprocess.std))
    return f"{shape} ({preprocess.interpolation}); mean {mean}; std {std}"


def _place(entry: BackboneEntry) -> str:
    source = entry.ref.partition(":")[0]
    if entry.origin.repo_id:
        return f"[{entry.origin.repo_id}](https://huggingface.co/{entry.origin.repo_id}), {_PLACES[source]}"
    if entry.origin.url:
        return f"<{entry.origin.url}>, {_PLACES.get(source, 'a plain download')}"
    return "shipped with hubtool" if source == "bundled" else "a directory"


def _digests(entry: BackboneEntry) -> str:
    if entry.digests_from == "published":
        return "published with the weights; every byte is checked against them"
    if entry.digests_from == "first_pull":
        return "recorded at the first pull (trust on first use); another byte later is an error"
    first = "recorded by the first `hubtool pull`; another byte later is an error"
    if entry.ref.startswith("hf:"):
        return f"{first}. Until then licence and preprocessing above are not checked against the repository's own files"
    return first


def _use(name: str, entry: BackboneEntry) -> list[str]:
    return [
        f"hubtool pull {name}",
        f"hubtool show {entry.ref} --recipe linear-probe",
        f"hubtool finetune linear-probe --data DIR backbone={entry.ref}",
    ]
