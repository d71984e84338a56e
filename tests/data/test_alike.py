"""The same picture in another file is found; another picture, however similar, is not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hubtool.core.progress import SILENT
from hubtool.data import alike
from hubtool.data.images import draw_pictures, open_rgb
from hubtool.data.looks import look

BUNDLED = Path(alike.__file__).parents[1] / "bundled" / "digits"


def _written(image: Image.Image, **how: object) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, **how)  # type: ignore[arg-type]
    return Image.open(stream).convert("RGB")


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


VARIANTS = {
    "jpeg": lambda i: _written(i, format="JPEG", quality=75),
    "bad jpeg": lambda i: _written(i, format="JPEG", quality=40),
    "png of a jpeg": lambda i: _written(_written(i, format="JPEG", quality=80), format="PNG"),
    "webp": lambda i: _written(i, format="WEBP", quality=70),
    "half the size": lambda i: _scaled(i, 0.5),
    "twice the size": lambda i: _scaled(i, 2),
    "a small jpeg": lambda i: _written(_scaled(i, 0.7), format="JPEG", quality=80),
}


def _found(ours: list[Image.Image], theirs: list[Image.Image]) -> dict[int, int]:
    hashed = [
        alike.hashed({f"{n:06d}": look(i) for n, i in enumerate(images, start)})
        for start, images in ((0, ours), (10**5, theirs))
    ]
    found = alike.nearest(hashed[0], hashed[1], advance=lambda _: None)
    return {int(one.first): int(one.second) - 10**5 for one in found}


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_picture_is_found_in_another_file(variant: str) -> None:
    pictures = draw_pictures(7, 40)
    found = _found(pictures, [VARIANTS[variant](picture) for picture in pictures])
    assert all(first == second for first, second in found.items())
    assert len(found) >= 39  # likely is not always: a picture of few features can lose some of them


def test_two_handwritten_digits_of_one_class_are_two() -> None:
    with np.load(next(BUNDLED.glob("*.npz"))) as file:
        digits = file["images"]
    images = [Image.fromarray((digit.astype(int) * 255 // digit.max()).astype(np.uint8)) for digit in digits]
    hashed = alike.hashed({f"{n:06d}": look(image) for n, image in enumerate(images)})
    found = alike.nearest(hashed, hashed, advance=lambda _: None)
    assert hashed.num_even == 0
    assert len(found) <= 4, found  # of 1797, most of them two of one hand


def test_even_pictures_are_like_nothing() -> None:
    noise = np.random.default_rng(0).integers(-2, 3, (3, 50, 50, 3))
    images = [Image.new("RGB", (40, 40), colour) for colour in ("white", "black", "#808080")]
    images += [Image.fromarray((200 + one).astype(np.uint8)) for one in noise]
    hashed = alike.hashed({f"{n}": look(image) for n, image in enumerate(images)})
    assert (hashed.names, hashed.num_even) == ((), 6)
    assert alike.nearest(hashed, hashed, advance=lambda _: None) == []


def test_the_bound_on_the_number_of_bits_hides_nothing() -> None:
    """Against all pairs, counted one by one."""
    source = np.random.default_rng(3)
    base = source.integers(0, 256, (6, 81), dtype=np.uint8)
    looks = {
        f"{n:03d}": np.clip(base[n % 6] + source.normal(0, 1.5 * (n // 6), 81), 0, 255).astype(np.uint8).tobytes()
        for n in range(60)
    }
    hashed = alike.hashed(looks)
    bits = np.unpackbits(hashed.bits_NW.view(np.uint8), axis=1).astype(bool)
    levels = hashed.levels_NL
    expected = set()
    for i, name in enumerate(hashed.names):
        for j in range(len(hashed.names)):
            share = (bits[i] ^ bits[j]).sum() / (bits[i] | bits[j]).sum()
            apart = np.sqrt(((levels[i] - levels[j]) ** 2).mean()) / max(levels[i].std(), levels[j].std())
            if i != j and share <= alike.LIMIT and apart <= alike.LEVELS_LIMIT:
                expected.add(name)
    assert {one.first for one in alike.nearest(hashed, hashed, advance=lambda _: None)} == expected
    assert len(expected) > 10


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_are_looked_through_and_what_is_damaged_is_left_out(tmp_path: Path, num_workers: int) -> None:
    pictures = draw_pictures(5, 20)
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number:02d}.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures[0].transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=turned, quality=90)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    paths = [f"{number:02d}.png" for number in range(20)] + ["bad.png", "gone.png", "turned.jpg"]
    looks, sha256_of = alike.look_through(tmp_path, paths, in_chans=3, num_workers=num_workers, reporter=SILENT)
    assert set(sha256_of) == set(paths) - {"bad.png", "gone.png"}
    assert all(looks.of[sha256_of[path]] == look(open_rgb(tmp_path / path)) for path in sha256_of)
    one = alike.hashed({sha256_of["turned.jpg"]: looks.of[sha256_of["turned.jpg"]]})
    [pair] = alike.nearest(one, alike.hashed(looks.of), advance=lambda _: None)
    assert pair.second == sha256_of["00.png"]


def test_no_pictures_are_like_none() -> None:
    none = alike.hashed({})
    some = alike.hashed({f"{n}": look(image) for n, image in enumerate(draw_pictures(1, 3))})
    assert (none.names, none.num_even) == ((), 0)
    assert alike.nearest(none, some, advance=lambda _: None) == alike.nearest(some, none, advance=lambda _: None) == []
