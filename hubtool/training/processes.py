"""The processes of a run. One alone is the common case; several share out the micro-batches of each step.

Every process holds the whole model and computes its micro-batches of a step; gradients are summed over the samples of all,
so that order, augmentation and dropout are those of one process and only the order of the summation differs.
A trained BatchNorm normalises over its micro-batch, as ever. Its running statistics are a chain of updates, one for each
micro-batch: each process takes a run of neighbouring ones, and after the step the chains are put one behind the other,
so that what one process would have is had but for rounding.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hubtool.core.errors import UnavailableError, UsageError
from hubtool.records.evidence import Array
from hubtool.training.numerics import choose_device

_PATIENCE = datetime.timedelta(hours=6)  # the first process may decode a large data set before the others are needed


@dataclass(frozen=True, kw_only=True, slots=True)
class Buffer:
    """A running statistic: ``value`` lives in the model, ``before`` is from before the step, an update keeps ``decay`` of it."""

    value: Tensor
    before: Tensor
    decay: float


class Group(Protocol):
    """``rank`` 0 writes and speaks. What goes in may differ between the processes, what comes out is the same in each."""

    @property
    def rank(self) -> int: ...

    @property
    def num_processes(self) -> int: ...

    def sum_up(self, parameters: Sequence[Tensor], numbers: Sequence[float]) -> list[float]:
        """Add up the gradients in place, and some numbers. A parameter without a gradient in any process keeps none."""
        ...

    def chain(self, buffers: Sequence[Buffer], counts: Sequence[int]) -> None:
        """Make of each process's running statistics those of all; ``counts`` are the micro-batches of each process."""
        ...

    def add_rows(self, rows_NK: Array) -> Array:
        """Add up arrays in which each process has filled its rows and left the others zero."""
        ...

    def barrier(self) -> None: ...


class Alone:
    """One process: there is nothing to exchange."""

    rank = 0
    num_processes = 1

    def sum_up(self, parameters: Sequence[Tensor], numbers: Sequence[float]) -> list[float]:
        return list(numbers)

    def chain(self, buffers: Sequence[Buffer], counts: Sequence[int]) -> None:
        pass

    def add_rows(self, rows_NK: Array) -> Array:
        return rows_NK

    def barrier(self) -> None:
        pass


class Several:
    """The processes of a torch.distributed group: gloo between CPUs, NCCL between GPUs."""

    def __init__(self, device: torch.device) -> None:
        self.rank = int(torch.distributed.get_rank())
        self.num_processes = int(torch.distributed.get_world_size())
        self._device = device

    def sum_up(self, parameters: Sequence[Tensor], numbers: Sequence[float]) -> list[float]:
        has_gradient = [p.grad is not None for p in parameters]
        summed = torch.tensor([*numbers, *has_gradient], dtype=torch.float64, device=self._device)
        self._sum(summed)
        found = [float(number) for number in summed]
        used = [p for p, num in zip(parameters, found[len(numbers) :], strict=True) if num]
        if used:
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in used])
            self._sum(flat)
            for parameter, part in zip(used, flat.split([p.numel() for p in used]), strict=True):
                parameter.grad = part.view_as(parameter)
        return found[: len(numbers)]

    def chain(self, buffers: Sequence[Buffer], counts: Sequence[int]) -> None:
        """k updates turn a value v into d^k·v + s: each process's s is found from what it began and ended with."""
        moving = [buffer for buffer in buffers if buffer.value.is_floating_point()]
        if moving:
            now = torch.cat([b.value.reshape(-1) for b in moving])
            gathered = [torch.empty_like(now) for _ in counts]
            with _translated():
                torch.distributed.all_gather(gathered, now)
            before = torch.cat([b.before.reshape(-1) for b in moving])
            decay = torch.cat([torch.full_like(b.before.reshape(-1), b.decay) for b in moving])
            total = before
            for end, count in zip(gathered, counts, strict=True):
                total = decay**count * total + (end - decay**count * before)
            for buffer, part in zip(moving, total.split([b.value.numel() for b in moving]), strict=True):
                buffer.value.copy_(part.view_as(buffer.value))
        for buffer in buffers:
            if not buffer.value.is_floating_point():
                grown = buffer.value - buffer.before
                self._sum(grown)
                buffer.value.copy_(buffer.before + grown)

    def add_rows(self, rows_NK: Array) -> Array:
        summed = torch.from_numpy(rows_NK).to(self._device)
        self._sum(summed)
        array: Array = summed.cpu().numpy()
        return array

    def barrier(self) -> None:
        with _translated():
            torch.distributed.barrier()

    def _sum(self, tensor: Tensor) -> None:
        with _translated():
            torch.distributed.all_reduce(tensor)

    def tell(self, text: str) -> str:
        """What the first process says, in every process."""
        size = torch.tensor([len(text.encode())], device=self._device)
        torch.distributed.broadcast(size, 0)
        data = torch.zeros(int(size), dtype=torch.uint8, device=self._device)
        if self.rank == 0:
            data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(self._device)
        torch.distributed.broadcast(data, 0)
        return bytes(data.cpu().numpy()).decode()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise UnavailableError(
            "E-PROCESSES",
            "another process of the run is gone",
            do="run the same command again: it goes on from the last checkpoint",
        ) from error


@contextlib.contextmanager
def joined(device: str, *, rank: int = -1, num_processes: int = -1, meeting: Path | None = None) -> Iterator[Several]:
    """Meet the other processes: at a file (ours), or where torchrun's environment says. ``device`` is the recipe's word for it."""
    chosen = choose_device(device)
    torch.distributed.init_process_group(
        "nccl" if chosen.type == "cuda" else "gloo",
        init_method=f"file://{meeting}" if meeting else "env://",
        rank=rank,
        world_size=num_processes,
        timeout=_PATIENCE,
    )
    if chosen.type == "cuda":
        torch.cuda.set_device(torch.distributed.get_rank() % torch.cuda.device_count())
    try:
        yield Several(chosen)
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def followers(num_processes: int, function: str, call: dict[str, Any]) -> Iterator[Path]:
    """Start processes 1 to N - 1; each calls ``function`` (``module:name``) with ``call``, its rank and the meeting file.

    They end with the block, in which the caller is process 0; one that has failed is an error after it.
    """
    with tempfile.TemporaryDirectory(prefix="hubtool-") as folder:
        meeting = Path(folder) / "meeting"
        started = [
            _start(function, call | {"rank": r, "num_processes": num_processes}, meeting)
            for r in range(1, num_processes)
        ]
        try:
            yield meeting
            codes = [process.wait(timeout=60) for process in started]
        finally:
            for process in started:  # they end when the first one is gone; one that does not is ended
                assert process.stdin is not None
                process.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)
                process.kill()
                process.wait()
        if any(codes):
            raise UnavailableError(
                "E-PROCESSES", f"a process of the run ended with {codes}", do="run the same command again"
            )


_FOLLOW = """
import importlib, json, os, sys, threading

def end_with_the_first_process():
    os.read(0, 1)  # nothing ever comes; it ends when the first process is gone
    os._exit(1)

threading.Thread(target=end_with_the_first_process, daemon=True).start()
module, name = sys.argv[1].split(":")
getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
"""


def _start(function: str, call: dict[str, Any], meeting: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", _FOLLOW, function, json.dumps(call | {"meeting": str(meeting)})]
    environ = os.environ | {"OMP_NUM_THREADS": str(threads_each(call["num_processes"]))}
    return subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environ, start_new_session=True
    )


def be_silent() -> None:
    """Only the first process speaks on stdout."""
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def threads_each(num_processes: int) -> int:
    return max(1, (os.cpu_count() or 1) // num_processes)


def check_gpus(num_processes: int, device: torch.device) -> None:
    """Raises UsageError where processes of this machine would have to share a GPU: NCCL does not take that."""
    if device.type == "cuda" and num_processes > (num_gpus := torch.cuda.device_count()):
        raise UsageError(
            "E-PROCESSES",
            f"{num_processes} processes need a GPU each, and there {'is' if num_gpus == 1 else 'are'} {num_gpus}",
            where="--nproc",
            do=f"--nproc {num_gpus}, or --device cpu",
        )


def check_divides(num_processes: int, grad_accum_steps: int, batch_size: int) -> None:
    """Raises UsageError with the override that would fit."""
    if grad_accum_steps % num_processes == 0:
        return
    fitting = [n for n in range(num_processes, batch_size + 1, num_processes) if batch_size % n == 0]
    nearest = min(fitting, key=lambda n: abs(n - grad_accum_steps), default=None)
    raise UsageError(
        "E-PROCESSES",
        f"{grad_accum_steps} micro-batches a step cannot be shared out among {num_processes} processes",
        where="train.grad_accum_steps",
        do=f"train.grad_accum_steps={nearest}" if nearest else f"take a train.batch_size that {num_processes} divides",
    )
