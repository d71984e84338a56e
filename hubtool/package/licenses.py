"""Licences: the Hub's identifiers, what each asks of a derived model, and which may follow which.

A fine-tuned model is a derivative of its backbone: its licence is carried over unless the author names another one,
and that one may ask more of the user, never less. The identifiers are those of
https://huggingface.co/docs/hub/repositories-licenses; what has none there is ``other`` with a ``license_name``.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from hubtool.core.errors import UsageError

# What a licence asks of whoever passes the weights on.
ATTRIBUTION = "attribution"
SHARE_ALIKE = "share alike"
NON_COMMERCIAL = "non-commercial use"
USE_RULES = "use restrictions"

_NO_DUTY = "cc0-1.0 unlicense wtfpl pddl"
_PERMISSIVE = (
    "apache-2.0 mit bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 zlib isc ncsa afl-3.0 artistic-2.0 ecl-2.0 "
    "postgresql cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 odc-by cdla-permissive-1.0 cdla-permissive-2.0 c-uda ofl-1.1 ms-pl"
)
_SHARE_ALIKE = (
    "cc-by-sa-3.0 cc-by-sa-4.0 gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 lgpl-lr agpl-3.0 mpl-2.0 epl-1.0 epl-2.0 eupl-1.1 "
    "eupl-1.2 osl-3.0 odbl cdla-sharing-1.0 gfdl"
)
_NON_COMMERCIAL = "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0"
_NON_COMMERCIAL_SHARE_ALIKE = "cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0"
_NO_DERIVATIVES = "cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0"
_USE_RULES = (
    "openrail openrail++ creativeml-openrail-m bigscience-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "gemma llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 deepfloyd-if-license apple-ascl apple-amlr intel-research "
    "fair-noncommercial-research-license h-research grok2-community etalab-2.0"
)

_DUTIES: dict[str, frozenset[str]] = {}
for _names, _duties in (
    (_NO_DUTY, ()),
    (_PERMISSIVE, (ATTRIBUTION,)),
    (_SHARE_ALIKE, (ATTRIBUTION, SHARE_ALIKE)),
    (_NON_COMMERCIAL, (ATTRIBUTION, NON_COMMERCIAL)),
    (_NON_COMMERCIAL_SHARE_ALIKE, (ATTRIBUTION, NON_COMMERCIAL, SHARE_ALIKE)),
    (_NO_DERIVATIVES, (ATTRIBUTION,)),
    (_USE_RULES, (ATTRIBUTION, USE_RULES)),
):
    for _name in _names.split():
        _DUTIES[_name] = frozenset(_duties)

HUB_IDS = frozenset(_DUTIES) | {"other"}

# Other spellings: SPDX with its suffixes, timm's and torchvision's words.
_ALIASES = {
    "apache": "apache-2.0",
    "apache2": "apache-2.0",
    "apache license 2.0": "apache-2.0",
    "apache-2": "apache-2.0",
    "mit license": "mit",
    "bsd-3": "bsd-3-clause",
    "bsd-2": "bsd-2-clause",
    "bsl": "bsl-1.0",
    "cc0": "cc0-1.0",
    "cc-by": "cc-by-4.0",
    "cc-by-nc": "cc-by-nc-4.0",
    "cc-by-sa": "cc-by-sa-4.0",
    "swag-cc-by-nc-4.0": "cc-by-nc-4.0",
    "https://github.com/facebookresearch/swag/blob/main/license": "cc-by-nc-4.0",
    "dfsg-other": "other",
}
# Licences without an identifier on the Hub: carried as ``other`` with this name, and only by the author's word.
_NAMED_TEXT = (
    "dinov3-license cvnets-license fastvit-license nvidia-open-model-license seer-license mobileone-license "
    "sapiens2-license qwen-community-1.0"
)
_NAMED = frozenset(_NAMED_TEXT.split())
_UNKNOWN = frozenset({"", "unknown", "none", "n/a", "noassertion", "unlicensed", "null"})


@dataclass(frozen=True, kw_only=True, slots=True)
class License:
    """``id`` as the Hub knows it; ``name`` only with ``other``: which one that is."""

    id: str
    name: str | None = None

    @property
    def duties(self) -> frozenset[str]:
        return _DUTIES.get(self.id, frozenset({ATTRIBUTION, USE_RULES}))

    def __str__(self) -> str:
        return self.name or self.id


def parse(text: str | None) -> License | None:
    """The licence that a spelling names (Hub id, SPDX id, timm's word); None where it names none or an unknown one."""
    key = " ".join((text or "").strip().lower().split())
    key = _ALIASES.get(key, key)
    key = re.sub(r"-(only|or-later)$", "", key)
    if key in _UNKNOWN:
        return None
    if key in HUB_IDS:
        return License(id=key)
    name = key.removeprefix("other:")
    if name in _NAMED or (key.startswith("other:") and re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name)):
        return License(id="other", name=name)
    return None


def of_result(base: str | None, wanted: str | None) -> License:
    """The licence of the packed model: ``wanted`` (``run.card.license``) if given, else the backbone's, carried over.

    Raises UsageError (exit 2) naming ``run.card.license`` when no licence is known, the name is none,
    the base forbids derived works, or the wanted one asks less than the base.
    """
    base_license = parse(base)
    if base_license is not None and base_license.id in _NO_DERIVATIVES.split():
        raise UsageError(
            "E-LICENSE-ND",
            f"the backbone's licence {base_license} allows no derived models",
            do="take another backbone",
        )
    if wanted is None:
        return _carried_over(base, base_license)
    license_ = parse(wanted)
    if license_ is None:
        near = difflib.get_close_matches(wanted.lower(), sorted(HUB_IDS), n=2, cutoff=0.5)
        raise UsageError(
            "E-LICENSE",
            f"{wanted[:60]!r} is no licence identifier",
            where="run.card.license",
            do=f"did you mean {' or '.join(near)}?" if near else "write one as in apache-2.0, or other:NAME",
        )
    if base_license is not None and (problem := looser_by(base_license, license_)):
        raise UsageError(
            "E-LICENSE-LOOSER",
            f"{license_} drops what the backbone's licence {base_license} asks: {problem}",
            where="run.card.license",
            do=f"write run.card.license={_spelling(base_license)}",
        )
    return license_


def _carried_over(base: str | None, license_: License | None) -> License:
    if license_ is not None and (license_.id != "other" or license_.name is not None):
        return license_
    raise UsageError(
        "E-LICENSE-UNKNOWN",
        f"the licence of the backbone is {base or 'not known'!s}",
        where="run.card.license",
        do="read the backbone's terms and name the licence of the result, as in run.card.license="
        + ("other" if license_ else "apache-2.0"),
    )


def _spelling(license_: License) -> str:
    return f"other:{license_.name}" if license_.name else license_.id


def looser_by(base: License, result: License) -> str:
    """What ``base`` asks and ``result`` would not, in words; empty when the result is as strict.

    Share-alike licences must be kept, a later version of the same family counts; terms of their own must be kept as they are.
    """
    dropped = sorted(base.duties - result.duties)
    if dropped:
        return ", ".join(dropped)
    if (USE_RULES in base.duties or base.id == "other") and result != base:
        return "its own terms"
    if SHARE_ALIKE in base.duties and _family(base.id) != _family(result.id):
        return "the same licence"
    return ""


def _family(license_id: str) -> str:
    """``gpl-3.0`` and ``agpl-3.0`` may follow ``lgpl``; versions of one family are taken as one."""
    family = re.sub(r"-?\d+(\.\d+)*$", "", license_id)
    return "gpl" if family in ("lgpl", "gpl", "agpl", "lgpl-lr") else family
