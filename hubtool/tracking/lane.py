"""A sink's own thread and bounded queue: where a sink may be slow, fail or hang without anybody waiting for it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from hubtool.records.log import Event

QUEUE_SIZE = 50_000  # about 20 MB of events; a cached linear probe logs some 10,000 a second at most
HANG_S = 30.0  # a sink that finishes nothing for so long hangs; importing its library on a busy disk may take ten
_FLUSH_EVERY_S = 2.0
_COLLECT_S = 1.0  # waking for every few steps costs W&B a third more of the processor, TensorBoard twice as much
_BITE = 100
_DUTY = 0.05  # the share of the time that a sink may compute in while training goes on


class Writer(Protocol):
    def write(self, event: Event) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Lane:
    """``put``, ``flush`` and ``end`` return at once; ``failure`` is why the sink is lost, None while it works.

    ``build`` makes the sink empty; ``backlog`` are the events it gets first; when the queue was ever full, the sink is
    built once more at the end and gets ``replay``, the whole journal.
    """

    def __init__(
        self,
        name: str,
        *,
        build: Callable[[], Writer],
        backlog: Callable[[], Iterable[Event]],
        replay: Callable[[], Iterable[Event]],
        warnings: list[str] | None = None,
        queue_size: int = QUEUE_SIZE,
        hang_s: float = HANG_S,
    ) -> None:
        self.failure: str | None = None
        self._build = build
        self._backlog = backlog
        self._replay = replay
        self._warnings = [] if warnings is None else warnings
        self._hang_s = hang_s
        self._queue: queue.Queue[Event] = queue.Queue(queue_size)
        self._is_behind = False
        self._sink: Writer | None = None
        self._is_ending = threading.Event()
        self._flush_asked = threading.Event()
        self._progress_at = self._flushed_at = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"sink-{name}", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        if self.failure is not None:
            return
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._is_behind = True
            self._check_hang()

    def flush(self) -> None:
        self._flush_asked.set()

    def end(self) -> None:
        self._is_ending.set()

    def join(self) -> None:
        """Wait for the end as long as there is progress."""
        while self._thread.is_alive() and self.failure is None:
            self._thread.join(0.02)
            self._check_hang()

    def take_warnings(self) -> list[str]:
        taken = list(self._warnings)
        del self._warnings[: len(taken)]
        return taken

    def _check_hang(self) -> None:
        still_s = time.monotonic() - self._progress_at
        if still_s > self._hang_s and self._thread.is_alive():
            self.failure = self.failure or f"it did not answer for {still_s:.0f} s"

    def _work(self) -> None:
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001  one of the four places: foreign code on its own thread; dropped, said once
            self.failure = self.failure or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if self.failure is not None:
            self._abandon()

    def _abandon(self) -> None:
        """What the lost sink holds open is given back, if it still can."""
        try:
            if self._sink is not None:
                self._sink.close()
        except Exception:  # noqa: BLE001  it is lost already, and that was said
            return

    def _serve(self) -> None:
        sink = self._fed(self._backlog())
        while self.failure is None:
            began, was_ending = time.monotonic(), self._is_ending.is_set()
            num_written = self._write_some(sink)
            if num_written == 0 and was_ending:  # asked before the queue was found empty: nothing can follow
                break
            self._rest(began if num_written else time.monotonic())
            now = time.monotonic()
            if self._flush_asked.is_set() or now - self._flushed_at > _FLUSH_EVERY_S:
                self._flush_asked.clear()
                sink.flush()
                self._flushed_at = now
        if self.failure is None and self._is_behind:
            sink.close()
            sink = self._fed(self._replay())
        sink.close()

    def _write_some(self, sink: Writer) -> int:
        """Write what is queued, a bite at most; waits while there is none, so that more come together. Returns how many."""
        for number in range(_BITE):
            try:
                event = self._queue.get_nowait()
            except queue.Empty:
                if number == 0:
                    self._is_ending.wait(_COLLECT_S)
                self._progress_at = time.monotonic()
                return number
            sink.write(event)
            self._progress_at = time.monotonic()
        return _BITE

    def _fed(self, events: Iterable[Event]) -> Writer:
        sink = self._sink = self._build()
        began = time.monotonic()
        for number, event in enumerate(events, 1):
            self._progress_at = time.monotonic()
            sink.write(event)
            if self.failure is not None:
                break
            if number % _BITE == 0:
                self._rest(began)
                began = time.monotonic()
        return sink

    def _rest(self, began: float) -> None:
        """While this thread computes, training may wait for the interpreter: leave it most of the time."""
        busy_s = time.monotonic() - began
        if busy_s > 0.001:
            self._is_ending.wait(min(2.0, busy_s * (1 / _DUTY - 1)))
        self._progress_at = time.monotonic()
