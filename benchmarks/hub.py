"""The hub: push and pull against cp with fsync plus sha256 and against nginx, HEADs a second, start-up, ten fine-tunes.

Random bytes are what a client cannot pack; float32 weights it packs, though they hardly become smaller.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hubtool.server.run import listen
from tests.server.clients import Client, Served

PUSH = """
    from huggingface_hub import HfApi
    HfApi().create_repo("lab/{name}")
    HfApi().upload_file(repo_id="lab/{name}", path_in_repo="w.safetensors", path_or_fileobj="{path}")
"""
TUNES = """
    import numpy as np
    from huggingface_hub import HfApi
    from safetensors.numpy import save_file
    body = np.random.default_rng(0).standard_normal(11_000_000, dtype=np.float32)
    for i in range({num}):
        head = np.random.default_rng(i + 1).standard_normal((512, 10), dtype=np.float32)
        save_file({{"body": body, "head": head}}, "tune.safetensors")
        HfApi().create_repo(f"lab/tune{{i}}")
        HfApi().upload_file(repo_id=f"lab/tune{{i}}", path_in_repo="model.safetensors", path_or_fileobj="tune.safetensors")
"""


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def copy_sync_hash(source: Path, target: Path) -> None:
    """What a push must do at least: write the bytes durably and hash them."""
    shutil.copyfile(source, target)
    fd = os.open(target, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    with target.open("rb") as stream:
        hashlib.file_digest(stream, "sha256")


def drain(url: str, path: str) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 200, (url, path, answer.status)
    buffer = bytearray(1 << 20)
    while answer.readinto(buffer):
        pass
    connection.close()


def heads(url: str, path: str, seconds: float = 3.0) -> float:
    connection, num, began = http.client.HTTPConnection(url.removeprefix("http://")), 0, time.monotonic()
    while time.monotonic() - began < seconds:
        connection.request("HEAD", path)
        connection.getresponse().read()
        num += 1
    return num / (time.monotonic() - began)


def processor_s(hub: Served) -> float:
    """User and system seconds of the hub and of the git processes it has waited for."""
    fields = Path(f"/proc/{hub.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def stored_bytes(root: Path) -> tuple[int, int]:
    """(large files and lists of parts, chunks) in bytes."""
    return tuple(sum(p.stat().st_size for p in (root / d).rglob("*") if p.is_file()) for d in ("objects", "xorbs"))  # type: ignore[return-value]


def main(arguments: list[str]) -> int:
    size = int(float(arguments[0]) * 1e6) if arguments else 1_000_000_000
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        source = place / "random.bin"
        with source.open("wb") as stream:
            for _ in range(size // 10_000_000):
                stream.write(os.urandom(10_000_000))
        size = source.stat().st_size
        base_s = timed(lambda: copy_sync_hash(source, place / "copy.bin"))
        print(f"{size / 1e9:.2f} GB of random bytes; cp + fsync + sha256: {base_s:.1f} s")
        weights = place / "weights.bin"
        write_weights(weights, size)
        for label, disable, kept, pushed in (
            ("hf_xet", "0", "in chunks", source),
            ("hf_xet-weights", "0", "in chunks, float32 weights", weights),
            ("lfs", "1", "whole", source),
        ):  # a hub each: equal bytes are kept once
            began = time.monotonic()
            with Served(place / label) as hub, nginx(place, pushed) as beside:
                print(f"start to first answer: {time.monotonic() - began:.2f} s")
                client = Client(hub.url, place / f"home-{label}", None)
                before = processor_s(hub), resource.getrusage(resource.RUSAGE_CHILDREN)
                code = PUSH.format(name=label, path=pushed)
                push_s = timed(lambda: client.python(code, HF_HUB_DISABLE_XET=disable))  # noqa: B023
                after = processor_s(hub), resource.getrusage(resource.RUSAGE_CHILDREN)
                client_s = sum(after[1][:2]) - sum(before[1][:2])
                print(f"push, {label}: {push_s:.1f} s ({base_s / push_s:.2f} of cp + fsync + sha256)")
                print(f"  processor time: hub {after[0] - before[0]:.1f} s, client {client_s:.1f} s")
                path = f"/lab/{label}/resolve/main/w.safetensors"
                pulls, others = [], []
                for _ in range(7):  # in turn, for whatever else the machine does slows both
                    pulls.append(timed(lambda: drain(hub.url, path)))  # noqa: B023
                    if beside is not None:
                        others.append(timed(lambda: drain(beside, f"/{pushed.name}")))  # noqa: B023
                pull_s = statistics.median(pulls)
                share = "nginx is not installed"
                if others:
                    share = f"{statistics.median(others) / pull_s:.2f} of nginx (best: {min(others) / min(pulls):.2f})"
                print(f"pull by GET of a file kept {kept}: {pull_s:.1f} s, {size / pull_s / 1e6:.0f} MB/s, {share}")
                print(f"HEAD resolve: {heads(hub.url, path):.0f} a second on one connection")
                print(f"peak memory of the hub: {hub.peak_bytes() / 1e6:.0f} MB")
        for num in (1, 10):
            with Served(place / f"tunes{num}") as hub:
                Client(hub.url, place / f"home-{num}", None).python(TUNES.format(num=num))
                files, uploads = stored_bytes(place / f"tunes{num}")
                print(
                    f"{num} fine-tunes of one frozen body: {files / 1e6:.0f} MB of whole files, {uploads / 1e6:.0f} MB of chunks"
                )
    return 0


def write_weights(path: Path, size_bytes: int) -> None:
    chance = np.random.default_rng(0)
    with path.open("wb") as stream:
        for at in range(0, size_bytes, 10_000_000):
            num = min(10_000_000, size_bytes - at) // 4
            stream.write((chance.standard_normal(num, dtype=np.float32) * 0.02).tobytes())


@contextlib.contextmanager
def nginx(place: Path, source: Path) -> Iterator[str | None]:
    """The address of an nginx that serves the directory of ``source``; None where it is not installed."""
    if shutil.which("nginx") is None:
        yield None
        return
    with contextlib.closing(listen("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    config = place / "nginx.conf"
    temporary = " ".join(
        f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"daemon off; pid {place}/nginx.pid; error_log /dev/null; events {{}} http {{ access_log off; sendfile on; {temporary} "
        f"server {{ listen 127.0.0.1:{port}; root {source.parent}; }} }}"
    )
    place.chmod(0o755)  # its workers are another user
    source.chmod(0o644)
    child = subprocess.Popen(["nginx", "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
