"""From a file to a picture of 1 to 4 channels, by one stated rule and under limits. Pillow, no torch.

The rule, in this order (each step that changed something is counted by the name in brackets):

1. the first frame counts (``first frame``);
2. 16 bits a channel are scaled to 8: v / 257, rounded; float pixels must lie in [0, 1] (``16-bit``);
3. palettes are looked up (``palette``), CMYK and other colour spaces become RGB as Pillow converts them (``cmyk``,
   ``colour space``), grey and bilevel pictures get three equal channels (``grey``); ICC profiles are not applied;
4. the EXIF orientation is applied (``exif turned``);
5. alpha is laid over white (``alpha over white``).

``in_chans`` 3 is RGB; 1 is its luma (ITU-R 601); 2 is luma and alpha, 4 is RGB and alpha: there alpha stays a channel,
255 where the file has none. JPEG is decoded in full size: Pillow's draft mode would change the bits.
"""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, UnidentifiedImageError

from hubtool.core.errors import DataError, SecurityError, UsageError
from hubtool.core.files import write_bytes

Picture = Image.Image

MAX_PIXELS = 50_000_000
MAX_FILE_BYTES = 512 << 20
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# By their endings files are taken for pictures; by their first bytes Pillow reads them, in these formats alone.
_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .gif .bmp .dib .tif .tiff .webp .ppm .pgm .pbm .pnm .avif .jp2 .j2k"
SUFFIXES = frozenset(_SUFFIXES.split(" "))
_QUICK = ("JPEG", "PNG", "GIF", "BMP", "PPM")  # an MPO is opened as the JPEG it begins with
FORMATS = (*_QUICK, "WEBP", "TIFF", "DIB", "AVIF", "JPEG2000")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


class BombError(DataError):
    """A picture of more pixels than the limit."""


def is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - on a name, called a million times


def open_rgb(path: Path, in_chans: int = 3) -> Image.Image:
    """The picture in the mode of ``in_chans`` (L, LA, RGB, RGBA). Raises DataError saying what is wrong with the file."""
    return decode(read_picture(path), in_chans)[0]


def lift_pillow_limit() -> None:
    """Leave bombs to our own limit, which lies below Pillow's; for a process of our own."""
    Image.MAX_IMAGE_PIXELS = None


def read_picture(path: Path | str) -> bytes:
    """The bytes of a regular file. A FIFO or device is refused without waiting for it (SecurityError)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb", buffering=0) as stream:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise SecurityError("E-PATH-SPECIAL", "not a regular file", where=str(path), do="take it out")
            if status.st_size > MAX_FILE_BYTES:
                raise DataError("E-DATA-SIZE", f"larger than {MAX_FILE_BYTES >> 20} MiB", where=str(path))
            return stream.readall() or b""
    except FileNotFoundError as error:
        raise DataError("E-DATA-404", "file not found", where=str(path)) from error
    except OSError as error:
        raise DataError("E-DATA-UNREADABLE", f"cannot be read: {error.strerror}", where=str(path)) from error


def decode(data: bytes, in_chans: int = 3) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture and the names of the rules that changed it. Raises DataError (BombError); ``where`` is left empty."""
    if in_chans not in MODES:
        raise UsageError("E-DATA-CHANNELS", f"pictures have 1 to 4 channels, not {in_chans}", where="data.in_chans")
    if not data:
        raise DataError("E-DATA-DECODE", "empty, 0 bytes")
    if short := bytes_short(data):
        raise DataError("E-DATA-DECODE", f"truncated, {short} bytes short")
    # Pillow's switch for decoding what is left of a truncated file is global, and some libraries turn it on.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    applied: list[str] = []
    # Pillow's own limit lies above ours, the rest is told by errors. Not ``catch_warnings``: it is not for two threads, and
    # libraries are imported in another one meanwhile.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    image: Image.Image = _load(data, applied)
    turn = _TURNS.get(_orientation(image))
    image = _to_eight_bits(image)
    image, alpha = _to_colour(image, applied)
    if image.mode == "L" and in_chans >= 3:
        applied.append("grey")
    if turn is not None:
        applied.append("exif turned")
        image = image.transpose(turn)
        alpha = alpha.transpose(turn) if alpha else None
    return _to_channels(image, alpha, in_chans, applied), tuple(applied)


def _load(data: bytes, applied: list[str]) -> ImageFile.ImageFile:
    try:
        image = _identify(data)
        if image.width * image.height > MAX_PIXELS:
            raise BombError("E-DATA-BOMB", f"{image.width}x{image.height} pixels, {MAX_PIXELS // 10**6} Mpx at most")
        if getattr(image, "is_animated", False):
            applied.append("first frame")
        if image.format == "TIFF" and _orientation(image) != 1:
            applied.append("exif turned")  # by Pillow itself, while it loads
        if image.mode in ("I", "F") or any(";16" in str(tile[3]) for tile in image.tile):
            applied.append("16-bit")
        image.load()
    except Image.DecompressionBombError as error:
        raise BombError("E-DATA-BOMB", f"{_header_size(data)} pixels, {MAX_PIXELS // 10**6} Mpx at most") from error
    except UnidentifiedImageError as error:
        raise DataError("E-DATA-DECODE", "no picture in a known format") from error
    except MemoryError as error:
        raise DataError("E-DATA-DECODE", "too large to decode") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
        raise DataError("E-DATA-DECODE", _reason(error, len(data))) from error  # all of these Pillow's decoders raise
    return image


def _identify(data: bytes) -> ImageFile.ImageFile:
    """Opened by the first format that knows it. The rest of Pillow's plugins are imported only when one is needed."""
    Image.preinit()
    try:
        return Image.open(io.BytesIO(data), formats=_QUICK)
    except UnidentifiedImageError:
        Image.init()
        return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])


def _reason(error: Exception, size_bytes: int) -> str:
    text = " ".join(str(error).split())
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return f"truncated, ends after {size_bytes} bytes"
    return f"damaged: {text[:100]}" if text else f"damaged: {type(error).__name__}"


def _header_size(data: bytes) -> str:
    """``WxH`` where the header of a PNG gives it; Pillow refuses such a picture before saying its size."""
    if data.startswith(b"\x89PNG"):
        width, height = struct.unpack(">II", data[16:24])
        return f"{width}x{height}"
    return "too many"


def bytes_short(data: bytes) -> int:
    """How many bytes at least are missing, where the format's header tells (PNG, WebP, BMP); else 0."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_short(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return max(0, int.from_bytes(data[4:8], "little") + 8 - len(data))
    if data[:2] == b"BM" and len(data) >= 26:
        return max(0, _bmp_end(data) - len(data))
    return 0


def _png_short(data: bytes) -> int:
    position = 8
    while position + 8 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        position += 12 + length
        if kind == b"IEND":
            return max(0, position - len(data))
    return max(position, 8) + 12 - len(data)


def _bmp_end(data: bytes) -> int:
    """Where the pixels of an uncompressed bitmap end; the file size in the header is often wrong."""
    offset, header, width, height = struct.unpack("<IIii", data[10:26])
    if header < 40 or len(data) < 34 or struct.unpack("<I", data[30:34])[0] not in (0, 3):
        return 0
    bits = struct.unpack("<H", data[28:30])[0]
    return int(offset + (abs(width) * bits + 31) // 32 * 4 * abs(height))


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    import numpy as np  # only here: most pictures need none, and the workers start faster without

    values = np.asarray(image)
    if image.mode in ("I", "F"):
        top = 65535 if image.mode == "I" else 1
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
            raise DataError("E-DATA-DECODE", f"pixel values outside of 0 to {top}")
    if image.mode == "F":
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _to_colour(image: Image.Image, applied: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """An L or RGB picture and its alpha; None where it has none, or is opaque everywhere."""
    mode, alpha = image.mode, None
    if mode in ("P", "PA"):
        applied.append("palette")
    elif mode == "CMYK":
        applied.append("cmyk")
    elif mode not in ("1", "L", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX"):
        applied.append("colour space")
    try:
        if "transparency" in image.info or mode in ("LA", "La", "PA", "RGBA", "RGBa"):
            rgba = (image.convert("LA") if mode == "La" else image).convert("RGBA")
            alpha = rgba.getchannel("A")
            alpha = None if alpha.getextrema() == (255, 255) else alpha
            image = rgba.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")
        elif mode not in ("L", "RGB"):
            image = image.convert("L" if mode == "1" else "RGB")
    except (ValueError, OSError, KeyError) as error:
        raise DataError("E-DATA-DECODE", f"the pixel format {mode} cannot be converted") from error
    return image, alpha


def _orientation(image: Image.Image) -> int:
    """1 to 8; a picture whose EXIF data cannot be read is not turned."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
    return value if value in _TURNS else 1


def _to_channels(image: Image.Image, alpha: Image.Image | None, in_chans: int, applied: list[str]) -> Image.Image:
    if in_chans in (1, 3):
        image = image.convert("RGB") if alpha or in_chans == 3 else image
        if alpha:
            applied.append("alpha over white")
            image = Image.composite(image, Image.new("RGB", image.size, (255, 255, 255)), alpha)
        return image.convert(MODES[in_chans])
    result = image.convert("L" if in_chans == 2 else "RGB")
    result.putalpha(alpha or Image.new("L", image.size, 255))
    return result


def draw_pictures(seed: int, num: int) -> list[Image.Image]:
    """``num`` RGB pictures drawn from ``seed``: a gradient, discs and half planes in integers, so equal on every machine."""
    return [_draw(random.Random(f"{seed}/{index}")) for index in range(num)]


def _draw(source: random.Random) -> Image.Image:
    import numpy as np

    def pick(low: int, high: int) -> int:
        return low + int(source.random() * (high - low))  # of its methods only random() is promised to stay the same

    def colour() -> list[int]:
        return [pick(0, 256) for _ in range(3)]

    height, width = pick(160, 321), pick(160, 321)
    y, x = np.ogrid[:height, :width]
    pixels = np.stack([(pick(0, 256) + (pick(-9, 10) * x + pick(-9, 10) * y) // 8) % 256 for _ in range(3)], axis=-1)
    for _ in range(pick(3, 8)):
        if source.random() < 0.5:
            cy, cx, radius = pick(0, height), pick(0, width), pick(10, 90)
            inside = (x - cx) ** 2 + (y - cy) ** 2 < radius * radius
        else:
            inside = pick(-9, 10) * (x - pick(0, width)) + pick(-9, 10) * (y - pick(0, height)) > 600
        pixels[inside] = colour()
    return Image.fromarray(pixels.astype(np.uint8))


def write_png(path: Path, pixels: Any) -> None:
    """Write uint8 pixels (H, W) or (H, W, 3) as a PNG: the bytes are the same for the same Pillow."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    write_bytes(path, stream.getvalue())
