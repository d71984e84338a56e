"""Clients that talk to a hub: the official ones in a process of their own, and plain HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Http:
    """Plain requests; header names come back in lower case."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._netloc = urlsplit(url).netloc
        self._token = token

    def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, timeout: float = 30
    ) -> Reply:
        sent = dict(headers or {})
        if self._token:
            sent.setdefault("Authorization", f"Bearer {self._token}")
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection(self._netloc, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()


def commit_lines(*operations: dict[str, Any], summary: str = "test", parent: str | None = None) -> bytes:
    """The NDJSON body of a commit."""
    header: dict[str, Any] = {"summary": summary, "description": ""}
    if parent:
        header["parentCommit"] = parent
    lines = [{"key": "header", "value": header}, *operations]
    return b"\n".join(json.dumps(line).encode() for line in lines)


def put(path: str, data: bytes) -> dict[str, Any]:
    import base64

    value = {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"}
    return {"key": "file", "value": value}


class Client:
    """Runs Python or a program the way a user would: a fresh HF_HOME, and HF_ENDPOINT naming the hub."""

    def __init__(self, url: str, home: Path, token: str | None = "hf_any") -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        self.env = kept | {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home / "hf"),
            "HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }
        if token:
            self.env["HF_TOKEN"] = token
        self._python = sys.executable

    def without_xet(self) -> Client:
        """Run what follows in an environment without hf_xet: the same packages, each linked, but that one."""
        place = self.home / "env"
        venv.create(place, with_pip=False, symlinks=True)
        (packages,) = place.glob("lib/python*/site-packages")
        for source in (Path(entry) for entry in sys.path if entry.endswith("site-packages")):
            for path in source.iterdir():
                if not path.name.startswith("hf_xet") and path.suffix != ".pth" and not (packages / path.name).exists():
                    (packages / path.name).symlink_to(path)
        self._python = str(place / "bin" / "python")
        return self

    def python(self, code: str, **env: str) -> str:
        """Run a script; its standard output. A failure shows what it wrote."""
        return self.run([self._python, "-c", textwrap.dedent(code)], **env)

    def run(self, command: list[str], *, cwd: Path | None = None, check: bool = True, **env: str) -> str:
        done = subprocess.run(
            command, env=self.env | env, cwd=cwd or self.home, capture_output=True, text=True, timeout=300, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command[0]} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout if check else done.stdout + done.stderr

    def hf(self, *args: str, **env: str) -> str:
        return self.run([self._python, str(Path(sys.executable).with_name("hf")), *args], **env)


class Served:
    """`hubtool serve` in a process of its own, on one port for life; it can be killed and started again."""

    def __init__(self, root: Path, port: int = 0) -> None:
        self.root = root
        self.port = port
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", "from hubtool.cli.main import main; main()", "serve", "--json"]
        command += ["--root", str(self.root), "--port", str(self.port)]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self._child.stdout is not None
        self.url: str = json.loads(self._child.stdout.readline())["url"]
        self.port = urlsplit(self.url).port or 0
        http = Http(self.url)
        for _ in range(500):
            try:
                http("GET", "/healthz")
                return
            except OSError:
                time.sleep(0.01)
        raise AssertionError("the hub did not start")

    @property
    def pid(self) -> int:
        return self._child.pid

    def peak_bytes(self) -> int:
        """The most memory the process has used."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def kill(self) -> None:
        """SIGKILL to it and its git children: what a power cut leaves, but for the disk's own cache."""
        os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        assert self._child.stdout is not None
        self._child.stdout.close()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        if self._child.poll() is None:
            self.kill()
