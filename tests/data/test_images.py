"""Every kind of file becomes the stated picture, or the stated error."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from data.made import encoded, picture
from hubtool.core.errors import DataError, HubtoolError, SecurityError, UsageError
from hubtool.data import images


def decode(
    image: Image.Image, in_chans: int = 3, format: str = "PNG", **options: object
) -> tuple[Image.Image, set[str]]:
    found, applied = images.decode(encoded(image, format, **options), in_chans)
    return found, set(applied)


def same(found: Image.Image, expected: Image.Image) -> bool:
    return found.mode == expected.mode and found.tobytes() == expected.tobytes()


def test_an_rgb_picture_is_left_as_it_is() -> None:
    found, applied = decode(picture())
    assert same(found, picture()) and not applied


def test_grey_and_bilevel_get_three_equal_channels() -> None:
    grey = picture(mode="L")
    found, applied = decode(grey)
    assert same(found, Image.merge("RGB", [grey] * 3)) and applied == {"grey"}
    found, applied = decode(grey.convert("1"))
    assert same(found, grey.convert("1").convert("RGB")) and applied == {"grey"}


def test_cmyk_is_converted_as_pillow_does() -> None:
    data = encoded(picture(mode="CMYK"), "TIFF")
    found, applied = images.decode(data)
    assert same(found, picture(mode="CMYK").convert("RGB")) and set(applied) == {"cmyk"}


def test_alpha_is_laid_over_white() -> None:
    image = picture(mode="RGBA")
    found, applied = decode(image)
    white = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"), dtype=int)
    assert applied == {"alpha over white"}
    assert np.abs(np.asarray(found, dtype=int) - expected).max() <= 1
    clear = Image.new("RGBA", (5, 4), (10, 20, 30, 0))
    assert decode(clear)[0].getextrema() == ((255, 255),) * 3


def test_an_opaque_alpha_channel_changes_nothing() -> None:
    image = picture()
    image.putalpha(255)
    found, applied = decode(image)
    assert same(found, picture()) and not applied


def test_a_palette_with_a_transparent_colour() -> None:
    image = picture().quantize(8)
    found, applied = decode(image)
    assert same(found, image.convert("RGB")) and applied == {"palette"}
    found, applied = decode(image, transparency=0)
    assert applied == {"palette", "alpha over white"}
    where = np.asarray(image) == 0
    assert (np.asarray(found)[where] == 255).all() and where.any()


@pytest.mark.parametrize("value", [0, 1, 128, 129, 257, 32768, 65535])
def test_sixteen_bits_are_scaled(value: int) -> None:
    image = Image.fromarray(np.full((4, 5), value, np.uint16))
    for format in ("PNG", "TIFF"):
        found, applied = decode(image, format=format)
        assert applied == {"16-bit", "grey"}
        assert found.getpixel((0, 0)) == (round(value / 257),) * 3


def test_float_pixels_must_lie_in_the_unit_interval() -> None:
    found, applied = decode(Image.fromarray(np.full((3, 3), 0.5, np.float32)), format="TIFF")
    assert found.getpixel((0, 0)) == (128, 128, 128) and "16-bit" in applied
    for bad in (1.5, -0.1, np.nan, np.inf):
        with pytest.raises(DataError, match="outside of 0 to 1"):
            decode(Image.fromarray(np.full((3, 3), bad, np.float32)), format="TIFF")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_turns(orientation: int, format: str) -> None:
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    found, applied = decode(image, format=format, exif=exif.tobytes() if format != "TIFF" else exif, **options)
    data = encoded(image, format, exif=exif.tobytes() if format != "TIFF" else exif, **options)
    import io

    assert same(found, ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert applied == ({"exif turned"} if orientation > 1 else set())


def test_exif_of_a_sixteen_bit_picture_with_alpha_turns_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000)
    assert decode(image, exif=exif.tobytes())[0].size == (4, 5)
    found, _ = decode(picture(mode="RGBA"), exif=exif.tobytes())
    assert same(found, decode(picture(mode="RGBA"))[0].transpose(Image.Transpose.ROTATE_270))


def test_unreadable_exif_is_no_reason_to_refuse() -> None:
    found, applied = decode(picture(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert same(found, picture()) and not applied


def test_the_first_frame_counts() -> None:
    frames = [picture(seed).quantize(16) for seed in range(3)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found, applied = images.decode(data)
    assert same(found, frames[0].convert("RGB")) and "first frame" in applied


def test_channels_by_rule() -> None:
    colour, clear = picture(), picture(mode="RGBA")
    assert same(decode(colour, 1)[0], colour.convert("L"))
    assert same(decode(picture(mode="L"), 1)[0], picture(mode="L"))
    four, _ = decode(clear, 4)
    assert same(four, clear)
    two, _ = decode(clear, 2)
    assert two.mode == "LA" and same(two.getchannel("A"), clear.getchannel("A"))
    opaque, _ = decode(colour, 4)
    assert opaque.getchannel("A").getextrema() == (255, 255)
    with pytest.raises(UsageError, match="1 to 4 channels"):
        decode(colour, 5)


FORMATS = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {}),
    ("PPM", {}),
]


@pytest.mark.parametrize(("format", "options"), FORMATS)
def test_a_truncated_file_is_refused_wherever_it_ends(format: str, options: dict[str, object]) -> None:
    data = encoded(picture(), format, **options)
    images.decode(data)
    for size in [*range(0, len(data), 41), *range(len(data) - 30, len(data))]:
        with pytest.raises(DataError) as caught:
            images.decode(data[:size])
        assert caught.value.code == "E-DATA-DECODE"


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP"])
def test_how_many_bytes_are_missing_is_said_where_the_format_tells(format: str) -> None:
    data = encoded(picture(), format)
    with pytest.raises(DataError, match="truncated, 7 bytes short"):
        images.decode(data[:-7])


def test_a_truncated_jpeg_is_called_so() -> None:
    data = encoded(picture(), "JPEG")
    with pytest.raises(DataError, match=f"truncated, ends after {len(data) - 174} bytes"):
        images.decode(data[:-174])


def test_truncated_stays_refused_when_a_library_switched_pillow_to_lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DataError):
        images.decode(encoded(picture(), "JPEG")[:-100])


@pytest.mark.parametrize(
    ("data", "what"),
    [(b"", "empty, 0 bytes"), (b"<html>not found</html>", "no picture"), (b"\x89PNG\r\n\x1a\n", "short")],
)
def test_what_is_no_picture_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(DataError, match=what):
        images.decode(data)


def test_formats_that_run_programs_are_not_opened() -> None:
    with pytest.raises(DataError, match="no picture in a known format"):
        images.decode(encoded(picture(), "EPS"))


@settings(max_examples=150, deadline=None, database=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]), st.data())
def test_damage_gives_a_picture_or_our_error_and_nothing_else(format: str, source: st.DataObject) -> None:
    data = bytearray(encoded(picture(width=12, height=9), format))
    for _ in range(source.draw(st.integers(1, 6))):
        data[source.draw(st.integers(0, len(data) - 1))] = source.draw(st.integers(0, 255))
    try:
        found, _ = images.decode(bytes(data))
    except HubtoolError as error:
        assert error.exit_code == 3
    else:
        assert found.mode == "RGB"


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((width + 7) // 8 + 1) * min(height, 10_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 5_001), (10_000, 10_000), (60_000, 60_000)])
def test_a_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(images.BombError, match=f"{size[0]}x{size[1]}") as caught:
        images.decode(bomb(*size))
    assert caught.value.code == "E-DATA-BOMB" and caught.value.exit_code == 3


def test_fifty_megapixels_are_allowed() -> None:
    assert images.MAX_PIXELS == 50_000_000


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(SecurityError):
        images.open_rgb(tmp_path / "a.png")


def test_missing_and_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not found"):
        images.open_rgb(tmp_path / "none.png")
    with pytest.raises(HubtoolError):
        images.open_rgb(tmp_path)


def test_drawn_pictures_are_the_same_everywhere() -> None:
    import hashlib

    drawn = images.draw_pictures(3, 8)
    assert len(drawn) == 8 and all(p.mode == "RGB" and min(p.size) >= 160 for p in drawn)
    digest = hashlib.sha256(b"".join(p.tobytes() for p in drawn)).hexdigest()
    assert digest == "be1a58f0628b553bba6a8cf69f9ecda79643856495c2e520a45d5fdb5f6e6f51"
    assert images.draw_pictures(3, 2)[1].tobytes() == drawn[1].tobytes()
    assert images.draw_pictures(4, 1)[0].tobytes() != drawn[0].tobytes()


def test_decoding_imports_no_torch_and_no_numpy(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg")
    code = (
        "import sys; from hubtool.data import images, crops, worker\n"
        f"images.open_rgb({str(tmp_path / 'a.jpg')!r})\n"
        "print({'torch', 'torchvision', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
