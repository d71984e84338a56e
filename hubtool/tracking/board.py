"""TensorBoard on this machine, looking at one log directory."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from hubtool.core.errors import UnavailableError


def start(directory: Path, *, port: int = 0) -> str:
    """Start TensorBoard on 127.0.0.1 in a thread of this process; returns its address. Port 0: any free one.

    It ends with the process. Raises UnavailableError when the port is taken.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's imports warn about packages of its own
        from tensorboard import default, program

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        board: Any = program.TensorBoard(plugins=default.get_plugins())
        # load_fast would start a second process, which outlives a killed one
        board.configure(
            argv=[
                "tensorboard",
                "--logdir",
                str(directory),
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--load_fast=false",
            ]
        )
        try:
            url: str = board.launch()
        except program.TensorBoardServerException as error:
            raise UnavailableError(
                "E-PORT", f"TensorBoard cannot start: {' '.join(str(error).split())}", do="name another --port"
            ) from error
    return url
