"""A hub inside this process: what ``--hub local`` talks to."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from hubtool.core.errors import UnavailableError
from hubtool.server.call import Limits
from hubtool.server.run import listen, make_server, site_of

_START_S = 30.0


class EmbeddedHub:
    """Serves ``root`` on a free port of 127.0.0.1 while the block runs; open, for this one person.

    A served hub, or another embedded one, may stand on the same root at the same time. ``url`` has no slash at its end.
    """

    def __init__(self, root: Path, *, limits: Limits | None = None, is_open: bool = True) -> None:
        self._root = root
        self._limits = limits
        self._is_open = is_open
        self.url = ""

    def __enter__(self) -> Self:
        sock = listen("127.0.0.1", 0)
        try:
            port = sock.getsockname()[1]
            site = site_of("127.0.0.1", port, public_url=None, is_open=self._is_open, limits=self._limits)
            self._server = make_server(self._root, site)
        except BaseException:
            sock.close()
            raise
        self._socket = sock
        self._thread = threading.Thread(target=self._server.run, args=([sock],), name="hub", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise UnavailableError("E-HUB-START", "the embedded hub did not start", where=str(self._root))
            time.sleep(0.005)
        self.url = site.public_url
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self._socket.close()
