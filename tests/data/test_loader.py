"""Batches are a function of addresses, seed and files: not of workers, order of asking, or prefetching."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from data.made import folders
from hubtool.core.errors import DataError, SecurityError
from hubtool.core.progress import SILENT
from hubtool.core.seeds import Address
from hubtool.data import images, splits, transforms
from hubtool.data.kept import Kept
from hubtool.data.loader import ImageLoader
from hubtool.records.backbone import Preprocess
from hubtool.records.dataset import Sample

PRE = Preprocess(img_size=(24, 28), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Sample, ...]]:
    root = folders(tmp_path_factory.mktemp("data"), {"a": 12, "b": 12})
    manifest = splits.index_data(
        root, task="classification", labels="folders", val_fraction=0.2, in_chans=3, num_workers=0, reporter=SILENT
    )
    return root, manifest.splits["train"]


def loader(
    data: tuple[Path, tuple[Sample, ...]], policy: str = "none", num_workers: int = 0, seed: int = 0
) -> ImageLoader:
    return ImageLoader(data[0], data[1], preprocess=PRE, policy=policy, seed=seed, num_workers=num_workers)


def augmented(epoch: int, num: int, size: int = 5) -> list[list[Address]]:
    return [
        [Address(purpose="augment", step=epoch, index=i) for i in range(first, min(num, first + size))]
        for first in range(0, num, size)
    ]


@pytest.mark.parametrize("policy", ["none", "light", "strong"])
def test_the_number_of_workers_changes_no_bit(data: tuple[Path, tuple[Sample, ...]], policy: str) -> None:
    seen: dict[int, list[torch.Tensor]] = {}
    for num_workers in (0, 1, 2):
        with_workers = loader(data, policy, num_workers)
        seen[num_workers] = list(with_workers.load(augmented(3, with_workers.num_samples)))
        with_workers.close()
    assert [len(x) for x in seen[0]] == [5, 5, 5, 5] or sum(len(x) for x in seen[0]) == len(data[1])
    for other in (1, 2):
        assert all(torch.equal(x, y) for x, y in zip(seen[0], seen[other], strict=True))


def test_a_batch_is_what_the_transforms_give_alone(data: tuple[Path, tuple[Sample, ...]]) -> None:
    root, samples = data
    with_workers = loader(data, "light", 1, seed=7)
    address = Address(purpose="augment", step=2, index=4)
    mixed, single = with_workers.load([[address, Address(purpose="plain", index=4)], [address]])
    with_workers.close()
    image = images.open_rgb(root / str(samples[4].path))
    assert torch.equal(mixed[0], transforms.augment(image, PRE, "light", address, 7))
    assert torch.equal(mixed[1], transforms.preprocess(image, PRE))
    assert torch.equal(single[0], mixed[0])
    assert mixed.dtype == torch.float32 and mixed.is_contiguous() and mixed.shape == (2, 3, 24, 28)


def test_policy_none_draws_nothing(data: tuple[Path, tuple[Sample, ...]]) -> None:
    x, y = loader(data).load([[Address(purpose="augment", step=5, index=1)], [Address(purpose="plain", index=1)]])
    assert torch.equal(x, y)


def test_more_batches_than_the_workers_have_room_for(
    data: tuple[Path, tuple[Sample, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubtool.data.pool.MAX_SHARED_BYTES", 1)
    small = loader(data, "light", 2)
    batches = augmented(1, small.num_samples, 9) * 3
    found = list(small.load(batches))
    small.close()
    expected = list(loader(data, "light").load(batches))
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_batches_are_asked_for_only_a_little_ahead(data: tuple[Path, tuple[Sample, ...]]) -> None:
    asked: list[int] = []

    def endless() -> Iterator[Sequence[Address]]:
        for step in itertools.count():
            asked.append(step)
            yield [Address(purpose="plain", index=step % 10)]

    for num_workers in (0, 1):
        some = loader(data, "none", num_workers)
        iterator = some.load(endless())
        for _ in range(3):
            next(iterator)
        assert len(asked) < 600
        some.close()


def test_a_second_load_drops_the_first(data: tuple[Path, tuple[Sample, ...]]) -> None:
    some = loader(data, "none", 2)
    first = some.load(augmented(0, some.num_samples))
    next(first)
    backwards = [batch[::-1] for batch in augmented(0, some.num_samples)][::-1]
    again = list(some.load(backwards))
    expected = list(loader(data).load(backwards))
    assert all(torch.equal(x, y) for x, y in zip(again, expected, strict=True))
    with pytest.raises(RuntimeError, match="load"):
        next(first)
    some.close()
    some.close()


def test_what_was_kept_is_not_decoded_again(data: tuple[Path, tuple[Sample, ...]], tmp_path: Path) -> None:
    root, samples = data
    expected = list(loader(data).load(augmented(0, len(samples))))
    size_bytes = 24 * 28 * 3
    for num_workers, limit_bytes in ((0, 1 << 20), (2, 1 << 20), (2, 7 * size_bytes)):
        with Kept(PRE, limit_bytes=limit_bytes) as kept:
            splits.index_data(
                root,
                task="classification",
                labels="folders",
                val_fraction=0.2,
                in_chans=3,
                num_workers=num_workers,
                reporter=SILENT,
                kept=kept,
            )
            num_kept = sum(kept.get(sample.sha256) is not None for sample in samples)
            assert num_kept == len(samples) if limit_bytes == 1 << 20 else 0 < num_kept <= 7
            is_all = num_kept == len(samples)
            some = ImageLoader(
                tmp_path if is_all else root,  # where nothing is: all comes from what was kept
                samples,
                preprocess=PRE,
                policy="none",
                seed=0,
                num_workers=num_workers,
                kept=kept,
            )
            found = list(some.load(augmented(0, len(samples))))
            some.close()
            assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_what_was_kept_serves_no_draw_and_no_other_preprocessing(data: tuple[Path, tuple[Sample, ...]]) -> None:
    root, samples = data
    other = PRE.model_copy(update={"interpolation": "nearest"})
    with Kept(PRE) as kept:
        for sample in samples:
            kept.add(sample.sha256, memoryview(bytes(24 * 28 * 3)))
        address = Address(purpose="augment", index=1)
        drawn = ImageLoader(root, samples, preprocess=PRE, policy="light", seed=0, num_workers=0, kept=kept)
        (x,) = drawn.load([[address]])
        assert torch.equal(x, next(loader(data, "light").load([[address]])))
        plain = ImageLoader(root, samples, preprocess=other, policy="none", seed=0, num_workers=0, kept=kept)
        (x,) = plain.load([[address]])
        assert torch.equal(x[0], transforms.preprocess(images.open_rgb(root / str(samples[1].path)), other))


def test_a_full_disk_ends_the_keeping_and_nothing_else() -> None:
    code = (
        "import resource, sys; from hubtool.data.kept import Kept; from hubtool.records.backbone import Preprocess\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "kept = Kept(Preprocess(img_size=(24, 28)))\n"
        "for name in 'abcdef': kept.add(name, memoryview(name.encode() * 2016))\n"
        "print([bytes(kept.get(n)[:2]) if kept.get(n) else None for n in 'abcdef'], kept.is_full)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[b'aa', b'bb', None, None, None, None] True", done.stderr


def test_batches_are_asked_for_a_little_ahead_of_what_is_kept_too(data: tuple[Path, tuple[Sample, ...]]) -> None:
    root, samples = data
    asked = itertools.count()
    with Kept(PRE) as kept:
        kept.add(samples[0].sha256, memoryview(bytes(24 * 28 * 3)))
        some = ImageLoader(root, samples, preprocess=PRE, policy="none", seed=0, num_workers=2, kept=kept)
        iterator = some.load([Address(purpose="plain")] for _ in asked)
        for _ in range(3):
            next(iterator)
        assert next(asked) < 600
        some.close()


def test_no_batches(data: tuple[Path, tuple[Sample, ...]]) -> None:
    assert list(loader(data).load([])) == []


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("change", ["edit", "remove", "link", "fifo", "directory"])
def test_a_picture_that_changed_since_it_was_indexed(tmp_path: Path, num_workers: int, change: str) -> None:
    root = folders(tmp_path, {"a": 10, "b": 10})
    manifest = splits.index_data(
        root, task="classification", labels="folders", val_fraction=0.2, in_chans=3, num_workers=0, reporter=SILENT
    )
    samples = manifest.splits["train"]
    victim = root / str(samples[2].path)
    data = bytearray(victim.read_bytes())
    victim.unlink()
    if change == "edit":
        victim.write_bytes(bytes(data) + b"\0")
    elif change == "link":
        victim.symlink_to(root / str(samples[1].path))
    elif change == "fifo":
        os.mkfifo(victim)
    elif change == "directory":
        victim.mkdir()
    some = ImageLoader(root, samples, preprocess=PRE, policy="none", seed=0, num_workers=num_workers)
    batches = some.load([[Address(purpose="plain", index=i)] for i in range(len(samples))])
    next(batches)
    next(batches)
    assert (some._num_workers == 0) == (num_workers == 0)
    with pytest.raises(DataError if change != "fifo" else SecurityError) as caught:
        next(batches)
    some.close()
    assert caught.value.where == samples[2].path
    assert caught.value.code == ("E-PATH-SPECIAL" if change == "fifo" else "E-DATA-CHANGED")


def _children() -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(status.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_worker_that_dies_names_its_picture(data: tuple[Path, tuple[Sample, ...]]) -> None:
    before = set(_children())
    some = loader(data, "none", 1)
    batches = some.load([[Address(purpose="plain", index=i % 10)] for i in range(2000)])
    next(batches)
    (worker,) = set(_children()) - before
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(DataError, match=r"died of this picture \(status -9\)") as caught:
        list(batches)
    assert caught.value.code == "E-DATA-WORKER"
    some.close()
    assert set(_children()) <= before


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_signals_are_the_parents_and_close_ends_the_workers(data: tuple[Path, tuple[Sample, ...]]) -> None:
    before = set(_children())
    some = loader(data, "none", 2)
    batches = some.load([[Address(purpose="plain", index=i % 10)] for i in range(1501)])
    next(batches)
    next(batches)  # by now both have started
    workers = set(_children()) - before
    for worker in workers:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(worker, number)
    assert sum(1 for _ in batches) == 1499
    some.close()
    assert len(workers) == 2 and not set(_children()) & workers


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_end_when_the_parent_is_killed(data: tuple[Path, tuple[Sample, ...]]) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from hubtool.data.pool import Pool\n"
        "pool = Pool(2); pool.submit(['check', sys.argv[1], 3, None, False]); pool.submit(['check', sys.argv[1], 3, None, False])\n"
        "pool.take(); pool.take(); print(*(w.pid for w in pool._workers), flush=True); time.sleep(60)"
    )
    path = str(data[0] / str(data[1][0].path))
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        parent.kill()
    deadline = time.monotonic() + 5
    while any(_is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_decoding_starts_before_torch_is_imported(data: tuple[Path, tuple[Sample, ...]]) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from hubtool.core.seeds import Address; from hubtool.data.loader import ImageLoader\n"
        "from hubtool.records.backbone import Preprocess; from hubtool.records.dataset import Sample\n"
        f"sample = Sample(path={data[1][0].path!r}, sha256={data[1][0].sha256!r}, size_bytes=1, target=0)\n"
        f"loader = ImageLoader(Path({str(data[0])!r}), (sample,), preprocess=Preprocess(img_size=(8, 8)),"
        " policy='light', seed=0, num_workers=1)\n"
        "batches = loader.load([[Address(purpose='augment')]])\n"
        "assert loader._pool.num_waiting == 1 and 'torch' not in sys.modules\n"
        "print(tuple(next(batches).shape)); loader.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 3, 8, 8)", done.stderr


def test_a_file_beside_the_data_is_not_imported_by_a_worker(
    data: tuple[Path, tuple[Sample, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIL", "json", "hashlib", "hubtool"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    some = loader(data, "none", 1)
    assert len(list(some.load([[Address(purpose="plain", index=0)]]))) == 1
    some.close()
