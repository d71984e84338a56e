"""Starting the server: uvicorn with our limits, in this process (``serve``) or in a thread of it (``embedded``)."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from pathlib import Path
from typing import Any

import h11
import uvicorn
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from hubtool.core.errors import StorageError
from hubtool.server.answers import ZERO_COPY
from hubtool.server.app import create_app
from hubtool.server.call import Limits, Site
from hubtool.server.edge import LOOPBACK_NAMES

HEAD_TIMEOUT_S = 20.0


class _Length(bytes):
    """Stands for the bytes of a file where h11 counts what is sent (h11, "Support for sendfile()")."""

    size: int

    def __len__(self) -> int:
        return self.size


_READ_BYTES = 512 << 10
_reading = threading.local()  # a loop has a thread of its own, and is done with what it read before it reads again


class PatientProtocol(H11Protocol, asyncio.BufferedProtocol):
    """uvicorn's HTTP/1.1, which drops a connection whose request head does not come in time (slow loris).

    Bodies are read in large pieces, into one buffer for all connections. It also speaks ASGI's zero copy send, for which
    uvicorn has no words: a file goes from the kernel to the socket.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        inner = self.app

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def sending(message: Message) -> None:
                await (self._send_file(message) if message["type"] == ZERO_COPY else send(message))

            await inner(scope, receive, sending)

        self.app = app

    async def _send_file(self, message: Message) -> None:
        """One slice; raises ClientDisconnect when the reader has left."""
        if self.transport.is_closing():
            raise ClientDisconnect
        length = _Length()
        length.size = message["count"]
        self.conn.send_with_data_passthrough(h11.Data(data=length))  # the length was announced: no bytes around it
        try:
            sent = await self.loop.sendfile(self.transport, message["file"], message["offset"], length.size)
        except (ConnectionError, RuntimeError) as error:  # asyncio's word for a closed transport is RuntimeError
            raise ClientDisconnect from error
        if sent != length.size:
            raise ClientDisconnect  # the file was cut while it was sent: a short answer, which every client notices

    def get_buffer(self, sizehint: int) -> bytearray:
        if not hasattr(_reading, "buffer"):
            _reading.buffer = bytearray(_READ_BYTES)
        return _reading.buffer  # type: ignore[no-any-return]

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(memoryview(_reading.buffer)[:nbytes])  # type: ignore[arg-type]  # h11 takes any bytes

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_head()

    def _await_head(self) -> None:
        seen = self.cycle
        self.loop.call_later(HEAD_TIMEOUT_S, self._drop_if_silent, seen)

    def _drop_if_silent(self, seen: Any) -> None:
        if self.cycle is seen and not self.transport.is_closing():
            self.transport.close()


def is_loopback(host: str) -> bool:
    return host in LOOPBACK_NAMES or host.startswith("127.")


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises StorageError when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        what = f"cannot listen on {host} port {port}: {error.strerror or error}"
        raise StorageError("E-HUB-PORT", what, do="choose another --port or --host") from error
    return sock


def make_server(root: Path, site: Site) -> uvicorn.Server:
    """A server that is not running yet."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config = uvicorn.Config(
        create_app(root, site),
        http=PatientProtocol,
        ws="none",
        loop="asyncio",  # one loop everywhere, whatever else is installed beside us
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=site.limits.header_bytes + 4096,
        limit_concurrency=site.limits.num_connections,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=20,
        backlog=512,
    )
    return uvicorn.Server(config)


def site_of(host: str, port: int, *, public_url: str | None, is_open: bool, limits: Limits | None = None) -> Site:
    name = f"[{host}]" if ":" in host else host
    return Site((public_url or f"http://{name}:{port}").rstrip("/"), is_open, limits or Limits())
