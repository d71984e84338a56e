"""Which files go to the object store, and the pointer that git keeps in their place.

The pointer is git-lfs's (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md); the rules for paths are those of
.gitattributes and .gitignore as far as the Hub's clients use them: globs, ``**``, a leading or trailing ``/``, ``!``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from hubtool.core.errors import SecurityError
from hubtool.core.ids import Oid

MAX_POINTER_BYTES = 1024
LFS_THRESHOLD_BYTES = 5_000_000  # above it even text is stored as an object; git would keep every version in full
_MAX_STARS = 5
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-\d-.*\n)*oid sha256:([0-9a-f]{64})\nsize (\d{1,19})\n"
)
_SUFFIXES = (
    *(
        "7z",
        "arrow",
        "avro",
        "bin",
        "bmp",
        "bz2",
        "ckpt",
        "flac",
        "ftz",
        "gguf",
        "gz",
        "h5",
        "joblib",
        "lz4",
        "mlmodel",
    ),
    *(
        "model",
        "mov",
        "mp3",
        "mp4",
        "msgpack",
        "npy",
        "npz",
        "ogg",
        "onnx",
        "ot",
        "parquet",
        "pb",
        "pickle",
        "pkl",
        "pt",
    ),
    *("pth", "rar", "safetensors", "tar", "tflite", "tgz", "tiff", "wasm", "wav", "webm", "xz", "zip", "zst"),
)
_LFS = "filter=lfs diff=lfs merge=lfs -text"
DEFAULT_GITATTRIBUTES = "".join(
    f"{pattern} {_LFS}\n"
    for pattern in [*(f"*.{suffix}" for suffix in sorted(_SUFFIXES)), "saved_model/**/*", "*tfevents*"]
)


@dataclass(frozen=True, slots=True)
class Pointer:
    """What stands in git for a large file."""

    oid: Oid
    size_bytes: int

    def encode(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.oid}\nsize {self.size_bytes}\n".encode()


def parse_pointer(data: bytes) -> Pointer | None:
    """The pointer, or None when the bytes are a file of their own."""
    if len(data) > MAX_POINTER_BYTES:
        return None
    match = _POINTER.fullmatch(data)
    if match is None:
        return None
    try:
        return Pointer(Oid(match[1].decode()), int(match[2]))
    except SecurityError:
        return None


def lfs_rules(gitattributes: bytes) -> tuple[tuple[re.Pattern[str], bool], ...]:
    """The lines that switch ``filter=lfs`` on or off, in order; the last that fits wins."""
    return _lfs_rules(gitattributes[: 1 << 20])


@lru_cache(maxsize=256)
def _lfs_rules(gitattributes: bytes) -> tuple[tuple[re.Pattern[str], bool], ...]:
    rules = []
    for line in gitattributes.decode("utf-8", "replace").splitlines()[:2000]:
        words = line.split()
        if len(words) < 2 or words[0].startswith(("#", "[", '"')):
            continue
        for word in words[1:]:
            if word == "filter=lfs":
                rules.append((_glob(words[0], is_ignore=False), True))
            elif word in ("-filter", "!filter") or (word.startswith("filter=") and word != "filter=lfs"):
                rules.append((_glob(words[0], is_ignore=False), False))
    return tuple(rules)


def is_lfs(path: str, rules: tuple[tuple[re.Pattern[str], bool], ...]) -> bool:
    verdict = False
    for pattern, is_on in rules:
        if pattern.fullmatch(path):
            verdict = is_on
    return verdict


@lru_cache(maxsize=256)
def ignore_rules(gitignore: bytes) -> tuple[tuple[re.Pattern[str], bool], ...]:
    rules = []
    for line in gitignore[: 1 << 20].decode("utf-8", "replace").splitlines()[:2000]:
        text = line.strip()
        if text and not text.startswith("#"):
            rules.append((_glob(text.removeprefix("!"), is_ignore=True), not text.startswith("!")))
    return tuple(rules)


def is_ignored(path: str, rules: tuple[tuple[re.Pattern[str], bool], ...]) -> bool:
    verdict = False
    for pattern, is_on in rules:
        if pattern.fullmatch(path):
            verdict = is_on
    return verdict


def _glob(text: str, *, is_ignore: bool) -> re.Pattern[str]:
    """A gitignore glob as a regular expression over the whole path.

    More stars than anybody writes would let the search backtrack for minutes; such a pattern fits nothing.
    """
    if len(re.findall(r"\*+", text)) > _MAX_STARS or len(text) > 512:
        return re.compile(r"(?!)")
    is_dir = text.endswith("/")
    body = text.strip("/")
    is_anchored = text.startswith("/") or "/" in body
    out = "" if is_anchored else "(?:.*/)?"
    for token in re.findall(r"\*\*+/|/\*\*+|\*+|\?|\[[^\]/]*\]|.", body, re.DOTALL):
        if token.startswith("**") and token.endswith("/"):
            out += "(?:.*/)?"
        elif token.startswith("/**"):
            out += "/.*"
        elif token.startswith("*"):
            out += "[^/]*"
        elif token == "?":
            out += "[^/]"
        elif token.startswith("[") and len(token) > 2:
            out += _char_class(token)
        else:
            out += re.escape(token)
    if is_ignore:
        out += "/.*" if is_dir else "(?:/.*)?"
    return re.compile(out, re.DOTALL)


def _char_class(token: str) -> str:
    inner = token[1:-1]
    negated = inner[:1] in "!^"
    chars = re.sub(r"([\\\[\]^&~|])", r"\\\1", inner[1:] if negated else inner)
    try:
        re.compile(f"[{chars}]")
    except re.error:
        return re.escape(token)
    return f"[{'^' if negated else ''}{chars}]" if chars else re.escape(token)
