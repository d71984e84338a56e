"""What a worker process does: one picture a request, one short answer, pixels through shared memory.

Started by ``pool`` as a bare interpreter: Pillow and no torch. Requests and answers
are JSON lines; the same ``answer`` runs inside the parent when there are no workers, so that the bits are the same.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import signal
import sys
from typing import Any

from hubtool.core.errors import DataError, HubtoolError, SecurityError, UsageError
from hubtool.data import crops, images, looks, policies

Request = list[Any]
Answer = dict[str, Any]
_ERRORS: dict[str, type[HubtoolError]] = {kind.__name__: kind for kind in (DataError, SecurityError, UsageError)}
_MAX_TEXT = 160  # an answer must stay short: hundreds of them wait in a pipe of 64 KiB


def answer(request: Request, slot: memoryview) -> Answer:
    """``["check", path, in_chans, frame, is_looked_at]`` decodes and says what it found; a frame, if not None, fills the slot,
    and the picture's look, if asked for, stands at the slot's end.

    ``["pixels", path, sha256, frame, policy, seed]`` fills the slot; ``policy`` None is plain preprocessing.
    """
    try:
        return _check(slot, *request[1:]) if request[0] == "check" else _pixels(slot, *request[1:])
    except HubtoolError as error:
        name = next(name for name, kind in _ERRORS.items() if isinstance(error, kind))
        return {"error": [name, error.code, error.what[:_MAX_TEXT], error.do[:_MAX_TEXT]]}


def raise_error(found: Answer, where: str) -> None:
    """Raise what an answer carries, if it carries an error."""
    if "error" in found:
        name, code, what, do = found["error"]
        raise _ERRORS[name](code, what, where=where, do=do)


def _check(slot: memoryview, path: str, in_chans: int, frame: list[Any] | None, is_looked_at: bool) -> Answer:
    data = images.read_picture(path)
    found: Answer = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    try:
        image, applied = images.decode(data, in_chans)
    except images.BombError as error:
        return found | {"bad": error.what[:_MAX_TEXT], "is_bomb": True}
    except DataError as error:
        return found | {"bad": error.what[:_MAX_TEXT]}
    if frame is not None:
        place = crops.Frame._make(frame)
        slot[: place.size_bytes] = crops.plain(image, place).tobytes()
    if is_looked_at:
        slot[-looks.SIZE_BYTES :] = looks.look(image)
    return found | {"applied": applied}


def _pixels(slot: memoryview, path: str, sha256: str, frame: list[Any], policy: str | None, seed: int) -> Answer:
    """The bytes must still be those that were indexed."""
    do = "start a new run on the data as it is now"
    try:
        data = images.read_picture(path)
    except DataError as error:
        raise DataError("E-DATA-CHANGED", f"the picture is gone since it was indexed ({error.what})", do=do) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError("E-DATA-CHANGED", "the picture has changed since it was indexed", do=do)
    place = crops.Frame._make(frame)
    image, _ = images.decode(data, place.in_chans)
    image = crops.plain(image, place) if policy is None else policies.draw(image, place, policy, seed)
    slot[: place.size_bytes] = image.tobytes()
    return {}


def main(shared_fd: int, slot_bytes: int, num_slots: int) -> None:
    """Answer until stdin ends. The parent alone hears signals: it finishes its step, then closes the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    images.lift_pillow_limit()
    shared = memoryview(mmap.mmap(shared_fd, slot_bytes * num_slots) if num_slots else b"")
    os.close(shared_fd) if num_slots else None
    for line in sys.stdin.buffer:
        index, request = json.loads(line)
        found = answer(request, shared[index * slot_bytes : (index + 1) * slot_bytes])
        try:
            os.write(sys.stdout.fileno(), json.dumps(found, separators=(",", ":")).encode() + b"\n")
        except BrokenPipeError:
            return
