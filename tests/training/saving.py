"""A process that has imported torch and forks children, each of which saves one checkpoint under the eyes of strace.

Reads one directory per line. The child saves a first checkpoint, stops until it is continued, saves the second, and writes how
that went to ``outcome`` beside the directory. Answers with the child's pid once it has stopped, then with its exit status.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def _child(directory: Path) -> None:
    from hubtool.core.errors import HubtoolError
    from hubtool.training.checkpoint import Checkpoints
    from training.test_checkpoint import make_state

    checkpoints = Checkpoints(directory, keep=1)
    checkpoints.publish(make_state(1))
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        checkpoints.publish(make_state(2))
        said = "saved"
    except HubtoolError as error:
        said = error.line()
    except OSError as error:
        said = f"not clean: {error!r}"
    directory.with_name("outcome").write_text(said)


def main() -> None:
    import torch

    import hubtool.training.checkpoint
    import training.test_checkpoint

    torch.set_num_threads(1)
    assert hubtool and training
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                _child(Path(line.strip()))
            finally:
                os._exit(0)
        os.waitpid(pid, os.WUNTRACED)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
