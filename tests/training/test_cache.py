from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hubtool.core.errors import ConflictError, StorageError
from hubtool.core.locks import hold
from hubtool.core.progress import SilentReporter
from hubtool.records.activations import Activation, ActivationsKey
from hubtool.records.backbone import Preprocess
from hubtool.records.environment import Numerics
from hubtool.records.recipe import Train
from hubtool.training import cache as caches
from hubtool.training.cache import Activations, list_caches, prune
from hubtool.training.cached_feed import CachedFeed
from hubtool.training.feed import Features, LiveFeed
from hubtool.training.order import plain_batches
from training.test_loop import make_train, same
from training.tiny import CPU, DrawnLoader, Run, StemCut, freeze_stem, make_model, make_samples

KEY = ActivationsKey(
    architecture="tiny",
    weights="a" * 64,
    cut="stem",
    preprocess=Preprocess(img_size=(9, 9)),
    precision="fp32",
    micro_size=4,
    numerics=Numerics(device="cpu", cpu_capability="none", num_threads=1, libraries={}),
)


class Told(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def make_feed(
    root: Path, *, key: ActivationsKey = KEY, is_checked: bool = False, **changes: Any
) -> tuple[CachedFeed, LiveFeed, StemCut, Told]:
    model = make_model()
    freeze_stem(model)
    cut, told = StemCut(model), Told()
    live = LiveFeed(DrawnLoader(10), cut, micro_size=4, device=CPU)
    tensors = caches.describe(cut.prefix(torch.zeros(1, 3, 9, 9)))
    cut.num_rows = 0
    options = {"seed": 0, "policy": "none", "limit_bytes": 10**8, "watch": lambda: None, "reporter": told} | changes
    cache = Activations(root, key, tensors)
    cache.is_checked = cache.is_old_checked = is_checked
    return CachedFeed(live, cache, make_samples(10), **options), live, cut, told


def read_all(feed: Any) -> list[Features]:
    batches = list(plain_batches(10, 4))
    feed.prepare(batches)
    return list(feed.features(batches))


def equal(a: Sequence[Features], b: Sequence[Features]) -> bool:
    return all(torch.equal(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True))


def test_cached_features_are_the_live_ones_bit_for_bit_and_computed_once(tmp_path: Path) -> None:
    feed, live, cut, _ = make_feed(tmp_path)
    cached = read_all(feed)
    num_computed = cut.num_rows
    assert equal(cached, read_all(live))
    cut.num_rows = 0
    read_all(feed)
    assert (num_computed, cut.num_rows) == (16, 0)  # three padded batches, one batch of the check


def test_another_run_with_the_same_key_computes_only_the_check(tmp_path: Path) -> None:
    read_all(make_feed(tmp_path)[0])
    feed, live, cut, _ = make_feed(tmp_path)
    assert equal(read_all(feed), read_all(live))
    feed, _, cut, _ = make_feed(tmp_path, is_checked=True)
    read_all(feed)
    assert cut.num_rows == 0
    other = KEY.model_copy(update={"weights": "b" * 64})
    feed, _, cut, _ = make_feed(tmp_path, key=other, is_checked=True)
    read_all(feed)
    assert cut.num_rows == 12


def test_two_feeds_of_one_cache_are_checked_once(tmp_path: Path) -> None:
    live = make_feed(tmp_path)[1]
    cache = Activations(tmp_path, KEY, caches.describe(live.prefix(torch.zeros(1, 3, 9, 9))))
    means = {"seed": 0, "policy": "none", "limit_bytes": 10**8, "watch": lambda: None, "reporter": Told()}
    read_all(CachedFeed(live, cache, make_samples(10), **means))
    cut = live._cut
    cut.num_rows = 0  # type: ignore[attr-defined]
    read_all(CachedFeed(live, cache, make_samples(10), **means))
    assert cut.num_rows == 0  # type: ignore[attr-defined]


def test_rows_of_an_earlier_run_are_compared_though_new_ones_were(tmp_path: Path) -> None:
    """Train has new pictures, val those of an earlier run: what was kept of them is not trusted unseen."""
    first, live, cut, _ = make_feed(tmp_path)
    live._cut = Swayed(cut.model)
    first._cache.is_checked = True  # type: ignore[union-attr]
    batches = list(plain_batches(10, 4))
    first.prepare(batches[1:])
    feed, live, _, told = make_feed(tmp_path)
    feed.prepare(batches[:1])
    assert told.lines == []
    feed.prepare(batches[1:])
    assert "not the live ones bit for bit" in told.lines[0]
    assert equal(list(feed.features(batches)), list(live.features(batches)))


@dataclass
class CachedRun(Run):
    root: Path = Path()

    def feed(self, cut: Any, mix: Any, loader: Any) -> Any:
        live = super().feed(cut, mix, loader)
        tensors = caches.describe(cut.prefix(torch.zeros(1, 3, 9, 9)))
        store = Activations(self.root, KEY, tensors)
        return CachedFeed(
            live,
            store,
            make_samples(loader.num_samples),
            seed=self.train.seed,
            policy=self.policy,
            limit_bytes=10**8,
            watch=lambda: None,
            reporter=Told(),
        )


@pytest.mark.parametrize("recipe", [{}, {"precision": "bf16"}, {"grad_accum_steps": 2, "ema": 0.5}])
def test_a_cached_run_ends_with_the_weights_of_the_uncached_one(recipe: dict[str, Any], tmp_path: Path) -> None:
    train: Train = make_train(**recipe)
    live = Run(tmp_path / "live", train, views=2)
    cached = CachedRun(tmp_path / "cached", train, views=2, root=tmp_path / "cache")
    assert same(live.go(), cached.go())
    assert live.events() == cached.events()


def test_rows_that_a_kill_left_torn_are_cut_and_the_rest_is_kept(tmp_path: Path) -> None:
    read_all(make_feed(tmp_path)[0])
    (directory,) = tmp_path.iterdir()
    index, rows = directory / "index.bin", directory / "rows.bin"
    os.truncate(index, 36 * 6 + 7)
    with rows.open("ab") as stream:
        stream.write(b"torn")
    feed, live, cut, _ = make_feed(tmp_path, is_checked=True)
    assert equal(read_all(feed), read_all(live))
    feed, _, cut, _ = make_feed(tmp_path, is_checked=True)
    read_all(feed)
    assert cut.num_rows == 0
    assert index.stat().st_size == 360


_FILL = """
import sys, time
from pathlib import Path
import hubtool.training.cache as caches
from training.test_cache import make_feed, read_all
caches.FLUSH_BYTES = 1
def watch():
    print("chunk", flush=True)
    time.sleep(0.2)
read_all(make_feed(Path(sys.argv[1]), watch=watch)[0])
"""


def test_a_fill_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", _FILL, str(tmp_path)], stdout=subprocess.PIPE, env=environ) as victim:
        assert victim.stdout is not None
        for _ in range(2):
            victim.stdout.readline()
        victim.send_signal(signal.SIGKILL)
    feed, live, cut, _ = make_feed(tmp_path, is_checked=True)
    cached = read_all(feed)
    assert cut.num_rows < 12
    assert equal(cached, read_all(live))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("is_checked", [True, False])
@pytest.mark.parametrize("row", range(10))
def test_a_bit_that_flips_in_any_row_is_found_and_the_row_is_computed_again(
    row: int, is_checked: bool, tmp_path: Path
) -> None:
    """Whether or not it is one of those that are compared with live ones at the start; the second epoch reads it anew."""
    read_all(make_feed(tmp_path)[0])
    (directory,) = tmp_path.iterdir()
    row_bytes = (directory / "rows.bin").stat().st_size // 10
    flip(directory / "rows.bin", row * row_bytes + row_bytes // 2)
    feed, live, cut, told = make_feed(tmp_path, is_checked=is_checked)
    assert equal(read_all(feed), read_all(live))
    assert equal(read_all(feed), read_all(live))
    assert told.lines == ["kept features were damaged on the disk, they are computed again"]
    feed, _, cut, told = make_feed(tmp_path, is_checked=True)
    assert equal(read_all(feed), read_all(live))
    cut.num_rows = 0
    read_all(feed)
    assert (cut.num_rows, told.lines) == (0, [])  # what was computed again counts from now on


@pytest.mark.parametrize("at", [5, 34])
def test_a_bit_that_flips_in_the_index_is_no_other_row(at: int, tmp_path: Path) -> None:
    """In a name: the row is not found. In a checksum: the row is taken for damaged."""
    read_all(make_feed(tmp_path)[0])
    (directory,) = tmp_path.iterdir()
    flip(directory / "index.bin", 36 * 3 + at)
    feed, live, _, _ = make_feed(tmp_path, is_checked=True)
    assert equal(read_all(feed), read_all(live))
    assert equal(read_all(feed), read_all(live))


class Swayed(StemCut):
    """Computes other bits than were kept: as after a change that the key does not know."""

    def prefix(self, x_BCHW: torch.Tensor) -> Features:
        return tuple(feature + 1e-6 for feature in super().prefix(x_BCHW))


def test_rows_that_are_not_what_is_computed_now_end_the_cache(tmp_path: Path) -> None:
    read_all(make_feed(tmp_path)[0])
    (directory,) = tmp_path.iterdir()
    feed, live, cut, told = make_feed(tmp_path)
    live._cut = Swayed(cut.model)
    assert equal(read_all(feed), read_all(live))
    assert "not the live ones bit for bit" in told.lines[0]
    assert not directory.exists()


def test_what_the_check_of_one_feed_finds_ends_the_cache_of_both(tmp_path: Path) -> None:
    read_all(make_feed(tmp_path)[0])
    feed, live, cut, told = make_feed(tmp_path)
    live._cut = Swayed(cut.model)
    other, other_live, _, other_told = make_feed(tmp_path)
    other._kept, other_live._cut = feed._kept, live._cut
    read_all(other)
    read_all(feed)
    assert (len(other_told.lines), told.lines) == (1, [])
    batches = list(plain_batches(10, 4))
    assert equal(list(other.features(batches)), read_all(live))


TWO = (Activation(dtype="float32", shape=(2,)),)


def named(number: int) -> bytes:
    return bytes([number]) * 32


def rows_of(*values: int) -> tuple[list[bytes], Features]:
    return [named(v) for v in values], (torch.tensor([[float(v)] * 2 for v in values]),)


@pytest.mark.parametrize("second", [(2, 3, 1), (9,)])
def test_a_cache_that_was_removed_and_filled_anew_is_not_read_with_old_row_numbers(
    second: tuple[int, ...], tmp_path: Path
) -> None:
    first = Activations(tmp_path, KEY, TWO)
    first.write([rows_of(1, 2)])
    prune(tmp_path)
    Activations(tmp_path, KEY, TWO).write([rows_of(*second)])
    first.refresh()
    assert first.is_dead
    found = first.read([row for row in first.rows([named(1), named(2)]) if row is not None])
    assert torch.equal(found[0], torch.tensor([[1.0, 1.0], [2.0, 2.0]]))  # its own mapping
    with pytest.raises(ConflictError):
        first.write([rows_of(5)])
    again = Activations(tmp_path, KEY, TWO)
    assert again.rows([named(second[0]), named(5)]) == [0, None]


def test_a_cache_that_is_removed_while_it_is_filled_is_done_without(tmp_path: Path) -> None:
    def watch() -> None:
        for directory in tmp_path.iterdir():
            shutil.rmtree(directory)

    feed, live, _, told = make_feed(tmp_path, watch=watch)
    assert equal(read_all(feed), read_all(live))
    assert "removed" in told.lines[0]


def test_what_is_being_filled_is_not_pruned(tmp_path: Path) -> None:
    cache = Activations(tmp_path, KEY, TWO)
    cache.write([rows_of(1, 2)])
    with hold(cache.directory / ".lock", "it"):
        assert prune(tmp_path) == ()
        assert cache.directory.is_dir()
    assert len(prune(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_shorter_than_its_index_says_is_not_made_longer(tmp_path: Path) -> None:
    cache = Activations(tmp_path, KEY, TWO)
    cache.write([rows_of(1, 2)])
    os.truncate(cache.directory / "rows.bin", 0)
    with pytest.raises(ConflictError):
        cache.write([rows_of(3)])
    assert (cache.directory / "rows.bin").stat().st_size == 0


def test_too_little_room_is_said_and_trained_uncached(tmp_path: Path) -> None:
    feed, live, _, told = make_feed(tmp_path, limit_bytes=100)
    assert equal(read_all(feed), read_all(live))
    assert "may have 0 MB" in told.lines[0]


def test_a_disk_that_fills_up_is_said_and_the_epoch_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise StorageError("E-DISK-FULL", "the disk is full")

    feed, live, _, told = make_feed(tmp_path)
    monkeypatch.setattr(caches.AppendFile, "append", full)
    assert equal(read_all(feed), read_all(live))
    assert "disk is full" in told.lines[0]


def test_the_cache_used_longest_ago_makes_room(tmp_path: Path) -> None:
    for number, letter in enumerate("abc"):
        read_all(make_feed(tmp_path, key=KEY.model_copy(update={"weights": letter * 64}))[0])
        newest = max(tmp_path.glob("*/about.json"), key=lambda p: p.stat().st_mtime_ns)
        os.utime(newest, (1000 + number, 1000 + number))
    rows = list_caches(tmp_path)
    assert [row.last_used_s for row in rows] == [1002.0, 1001.0, 1000.0]
    feed, *_ = make_feed(tmp_path, key=KEY.model_copy(update={"weights": "d" * 64}), limit_bytes=3 * rows[0].size_bytes)
    read_all(feed)
    left = {row.last_used_s for row in list_caches(tmp_path)}
    assert 1000.0 not in left
    assert 1002.0 in left
    assert len(prune(tmp_path)) == len(left)
    assert list_caches(tmp_path) == ()


def test_two_runs_do_not_fill_at_once(tmp_path: Path) -> None:
    """The second waits, then finds everything computed."""
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", _FILL, str(tmp_path)], stdout=subprocess.PIPE, env=environ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        feed, live, cut, _ = make_feed(tmp_path, is_checked=True)
        cached = read_all(feed)
        assert cut.num_rows == 0
        other.stdout.read()
    assert equal(cached, read_all(live))
