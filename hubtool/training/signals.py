"""Signals that ask a run to stop: the first lets the step end and the checkpoint be saved, a second leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from hubtool.core.errors import InterruptedRun

ASKING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


class Stop:
    """Listens for the block it stands over; elsewhere than in the main thread it hears nothing.

    USR1 and HUP are what batch systems and lost terminals send before they kill.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in ASKING:
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number is not None:
            os._exit(128 + number)
        self.signal_number = number

    @property
    def is_asked(self) -> bool:
        return self.signal_number is not None

    def interrupted(self, what: str, *, do: str = "the same command goes on from here") -> InterruptedRun:
        number = self.signal_number or signal.SIGINT
        return InterruptedRun(number, f"stopped by {signal.Signals(number).name}: {what}", do=do)
