"""From measured runs to the table: medians, the best peer, the ratio beside its goal."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of work, given to ``peers``. ``later_goal``: of a later epoch's ratio; ``later_goal_ms``: of its time."""

    name: str
    title: str
    architecture: str
    trained: str
    precision: str
    epochs: int
    lr: float
    augment: str = "none"
    views: int = 0
    peers: tuple[str, ...] = ("timm",)
    goal: float | None = None
    later_goal: float | None = None
    later_goal_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run. ``later_s``: the median epoch after the first, from start to start, validation and checkpoint included."""

    row: str
    trainer: str
    wall_s: float
    cpu_s: float
    later_s: float | None
    top1: float
    checkpoint_bytes: int
    above_tensors_bytes: int | None
    anonymous_bytes: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """Medians over the rounds of one row: hubtool's, and those of the best peer (the leanest one for memory)."""

    row: Row
    wall_s: dict[str, float]
    cpu_s: dict[str, float]
    later_s: dict[str, float]
    top1: dict[str, float]
    anonymous_bytes: dict[str, float]
    checkpoint_bytes: dict[str, float]
    above_tensors_bytes: float | None

    @property
    def is_comparison(self) -> bool:
        """Whether hubtool and at least one peer came to an end."""
        return "hubtool" in self.wall_s and len(self.wall_s) > 1

    def best_peer(self) -> str:
        return min((name for name in self.wall_s if name != "hubtool"), key=self.wall_s.__getitem__)

    def ratio(self) -> float:
        return self.wall_s[self.best_peer()] / self.wall_s["hubtool"]

    def cpu_ratio(self) -> float:
        return min(value for name, value in self.cpu_s.items() if name != "hubtool") / self.cpu_s["hubtool"]

    def later_ratio(self) -> float | None:
        peers = [value for name, value in self.later_s.items() if name != "hubtool"]
        return min(peers) / self.later_s["hubtool"] if peers and "hubtool" in self.later_s else None

    def as_dict(self) -> dict[str, object]:
        found = asdict(self)
        return found | {
            "best_peer": self.best_peer(),
            "ratio": self.ratio(),
            "cpu_ratio": self.cpu_ratio(),
            "later_ratio": self.later_ratio(),
        }


def line(row: Row, outcomes: Iterable[Outcome]) -> Line:
    by_trainer: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.row == row.name:
            by_trainer.setdefault(outcome.trainer, []).append(outcome)

    def medians(field: str) -> dict[str, float]:
        values = {t: [v for o in found if (v := getattr(o, field)) is not None] for t, found in by_trainer.items()}
        return {trainer: statistics.median(found) for trainer, found in values.items() if found}

    return Line(
        row=row,
        wall_s=medians("wall_s"),
        cpu_s=medians("cpu_s"),
        later_s=medians("later_s"),
        top1=medians("top1"),
        anonymous_bytes=medians("anonymous_bytes"),
        checkpoint_bytes=medians("checkpoint_bytes"),
        above_tensors_bytes=medians("above_tensors_bytes").get("hubtool"),
    )


def markdown(lines: list[Line]) -> str:
    """Three tables: the ratios beside their goals, every trainer's whole job, memory and checkpoints."""
    out = [
        "| work | hubtool | best peer | whole job | goal | processor time | a later epoch | goal |",
        "|---" * 8 + "|",
    ]
    for each in lines:
        peer, row = each.best_peer(), each.row
        goal = f"≥ {row.goal:g}x" if row.goal else "–"
        later_goals = [f"≥ {row.later_goal:g}x"] if row.later_goal else []
        later_goals += [f"≤ {row.later_goal_ms:g} ms"] if row.later_goal_ms else []
        out.append(
            f"| {row.title} | {each.wall_s['hubtool']:.1f} s | {each.wall_s[peer]:.1f} s ({peer}) | {each.ratio():.2f}x | "
            f"{goal} | {each.cpu_ratio():.2f}x | {_later(each)} | {', '.join(later_goals) or '–'} |"
        )
    trainers = list(dict.fromkeys(name for each in lines for name in each.wall_s))
    out += [
        "",
        "Whole job in seconds, processor seconds in brackets, and the share of validation pictures told right at the end:",
        "",
    ]
    out += ["| work | " + " | ".join(trainers) + " |", "|---" * (len(trainers) + 1) + "|"]
    for each in lines:
        cells = [
            f"{each.wall_s[t]:.1f} ({each.cpu_s[t]:.1f}), {each.top1[t]:.2f}" if t in each.wall_s else "–"
            for t in trainers
        ]
        out.append(f"| {each.row.title} | " + " | ".join(cells) + " |")
    out += [
        "",
        "Peak anonymous memory of the process tree in MB (goal: at most the leanest peer's), and one checkpoint:",
        "",
    ]
    out += ["| work | " + " | ".join(trainers) + " | checkpoint of hubtool | of the peers |"]
    out += ["|---" * (len(trainers) + 3) + "|"]
    for each in lines:
        cells = [f"{each.anonymous_bytes[t] / 1e6:.0f}" if t in each.anonymous_bytes else "–" for t in trainers]
        peers = [value for name, value in each.checkpoint_bytes.items() if name != "hubtool"]
        own = f"{each.checkpoint_bytes['hubtool']:,.0f} B, {each.above_tensors_bytes or 0:,.0f} above its tensors"
        out.append(f"| {each.row.title} | " + " | ".join(cells) + f" | {own} | {min(peers) / 1e6:.1f} MB |")
    return "\n".join(out) + "\n"


def _later(each: Line) -> str:
    ratio = each.later_ratio()
    if ratio is None:
        return "–"
    peer_s = min(value for name, value in each.later_s.items() if name != "hubtool")
    return f"{1000 * each.later_s['hubtool']:.0f} ms against {1000 * peer_s:,.0f} ms: {ratio:.1f}x"
