from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from hubtool.training.signals import Stop


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_the_first_signal_only_asks(number: signal.Signals, code: int) -> None:
    with Stop() as stop:
        assert not stop.is_asked
        os.kill(os.getpid(), number)
        assert stop.is_asked
        error = stop.interrupted("saved")
    assert error.process_exit_code == code
    assert number.name in error.what


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_signal_leaves_at_once() -> None:
    code = (
        "import time\nfrom hubtool.training.signals import Stop\n"
        "with Stop():\n    print('ready', flush=True)\n    while True: time.sleep(9)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        victim.stdout.readline()
        victim.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            victim.wait(0.3)
        victim.send_signal(signal.SIGTERM)
        assert victim.wait(5) == 143


def test_another_thread_hears_nothing_and_does_no_harm() -> None:
    found: list[bool] = []

    def enter() -> None:
        with Stop() as stop:
            found.append(stop.is_asked)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [False]
