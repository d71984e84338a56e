"""The model card: compiled from the files of a package by a template, around the text that a person wrote.

What stands between two ``yours`` markers is the person's and is kept; everything else is rendered, so that the card of a
package that was not touched is equal to its rendering, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

import jinja2

from hubtool.core.errors import IntegrityError
from hubtool.package import prose
from hubtool.package.facts import CURVES_NAME, FIGURES, Facts, read_facts
from hubtool.package.front import metadata, to_yaml
from hubtool.package.snippets import REPO
from hubtool.records.package import Layout

FILE_NAME = "README.md"
TEMPLATE_VERSION = 2
SECTIONS = ("about", "training-data", "intended-use", "limits", "citation")

_MARK = re.compile(r"<!-- hubtool card v(\d+) · ([^ ]+) · ")
_YOURS = re.compile(r"<!-- yours:begin ([a-z-]+)[^>]*-->\n(.*?)<!-- yours:end \1 -->", re.DOTALL)
_COUNTED = re.compile(r"<!-- reproductions:((?: [0-9a-f]{16})+) -->")


def render(
    package_dir: Path,
    *,
    layout: Layout,
    repo: str = REPO,
    person: Mapping[str, str] | None = None,
    counted: Collection[str] = (),
) -> str:
    """The card of the package in ``package_dir``, as it should read.

    ``person`` gives the text of some of ``SECTIONS``; ``repo`` the repository's name where it is known; ``counted`` the ids
    of the reproductions beside the package that it tells of, and names, so that they too are files it is compiled from.
    Raises NotFoundError or IntegrityError for evidence that is missing or damaged.
    """
    return render_facts(read_facts(package_dir, layout, counted), repo=repo, person=person)


def render_facts(facts: Facts, *, repo: str = REPO, person: Mapping[str, str] | None = None) -> str:
    texts = dict(person or {})

    def yours(section: str) -> str:
        hint = ": write between these two lines, it stays when the card is made again"
        return f"<!-- yours:begin {section}{hint} -->\n<!-- yours:end {section} -->"

    body = _template().render(
        f=facts,
        p=facts.resolved.preprocess,
        repo=repo,
        yours=yours,
        what=prose.what(facts),
        dataset=prose.dataset(facts),
        data_notes=prose.data_notes(facts),
        training=prose.training(facts),
        environment=prose.environment(facts),
        numerics=prose.numerics(facts),
        intended=prose.intended(facts),
        limits=prose.limits(facts),
        reproduced=prose.reproduced(facts),
        attempts=prose.attempts(facts),
        license=prose.license_text(facts),
        citation=prose.citation(facts, repo),
        evidence=tuple(dict.fromkeys(row.claim.evidence for row in facts.claims)),
        settings=[(key, value) for key, (value, _) in facts.settings.items()],
        changed=[(key, value) for key, (value, is_changed) in facts.settings.items() if is_changed],
        curves=CURVES_NAME if facts.has_file(CURVES_NAME) else "",
        figure=FIGURES[facts.task.name] if facts.has_file(FIGURES[facts.task.name][0]) else None,
        by_threshold=prose.by_threshold(facts),
    )
    mark = f"<!-- hubtool card v{TEMPLATE_VERSION} · {repo} · compiled from the files of this package -->"
    card = f"---\n{to_yaml(metadata(facts, repo))}---\n{mark}\n\n{_squeeze(body)}\n"
    for section, text in texts.items():
        end = f"<!-- yours:end {section} -->"
        card = card.replace(end, _whole_lines(text) + end, 1)
    return card


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=False, keep_trailing_newline=False
    )
    environment.filters |= {
        "md": prose.md,
        "num": prose.num,
        "count": prose.count,
        "number": prose.number,
        "size": prose.size,
        "triple": prose.triple,
    }
    return environment.from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"))


def _squeeze(body: str) -> str:
    """No space at the end of a line, no two empty lines in a row, none inside a table."""
    kept: list[str] = []
    for line in (raw.rstrip() for raw in body.strip().split("\n")):
        if not line and kept and not kept[-1]:
            continue
        if line.startswith("|") and kept[-2:-1] and not kept[-1] and kept[-2].startswith("|"):
            kept.pop()
        kept.append(line)
    return "\n".join(kept)


def person_text(markdown: str) -> dict[str, str]:
    """What a person wrote in a card, by section; sections that stand empty are left out."""
    found = {name: _whole_lines(text) for name, text in _YOURS.findall(markdown)}
    return {name: text for name, text in found.items() if name in SECTIONS and text.strip()}


def _whole_lines(text: str) -> str:
    return text if text.endswith("\n") or not text else f"{text}\n"


def repo_of(markdown: str) -> str:
    """The repository that a card was rendered for. Raises IntegrityError where the card is not one of ours, or newer."""
    mark = _MARK.search(markdown)
    if mark is None:
        raise IntegrityError("E-CARD-MARK", "the card does not say which template made it", where=FILE_NAME)
    if int(mark[1]) != TEMPLATE_VERSION:
        is_newer = int(mark[1]) > TEMPLATE_VERSION
        raise IntegrityError(
            "E-CARD-VERSION",
            f"the card is of template v{mark[1]}, this hubtool writes v{TEMPLATE_VERSION}",
            where=FILE_NAME,
            do="update hubtool" if is_newer else "look at it with the hubtool that packed it, or pack the run again",
        )
    return mark[2]


def counted_of(markdown: str) -> tuple[str, ...]:
    """The ids of the reproductions that a card says it counts."""
    named = _COUNTED.search(markdown)
    return tuple(named[1].split()) if named else ()


def front_matter(markdown: str) -> str:
    """The YAML between the first two ``---`` lines. Raises IntegrityError where there is none."""
    match = re.match(r"---\n(.*?\n)---\n", markdown, re.DOTALL)
    if match is None:
        raise IntegrityError("E-CARD-FRONT", "the card has no front matter", where=FILE_NAME)
    return match[1]


def differences(text: str, wanted: str) -> list[tuple[str, str]]:
    """Where a card is not its rendering: (place, what it reads and what the evidence gives), the first few lines."""
    if text == wanted:
        return []
    mine, theirs = text.split("\n"), wanted.split("\n")
    found: list[tuple[str, str]] = []
    pairs = [(number, a, b) for number, (a, b) in enumerate(zip(mine, theirs, strict=False), 1) if a != b]
    for number, reads, gives in pairs[:5]:
        same = next((i for i, (a, b) in enumerate(zip(reads, gives, strict=False)) if a != b), 0)
        cut = slice(max(0, same - 30), same + 30)
        found.append((f"{FILE_NAME} line {number}", f"reads {reads[cut]!r}, the evidence gives {gives[cut]!r}"))
    if len(mine) != len(theirs):
        found.append((FILE_NAME, f"{len(mine)} lines, compiled from the evidence it has {len(theirs)}"))
    return found


def refuse_edited(text: str, package_dir: Path, layout: Layout) -> None:
    """Raises IntegrityError (E-CARD-MISMATCH) where the card says something else than the evidence outside the markers."""
    wanted = render(package_dir, layout=layout, repo=repo_of(text), person=person_text(text), counted=counted_of(text))
    found = differences(text, wanted)
    if found:
        place, detail = found[0]
        raise IntegrityError(
            "E-CARD-MISMATCH", detail, where=place, do="write between the yours markers, or pack again"
        )
