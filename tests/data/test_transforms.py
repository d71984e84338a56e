"""Preprocessing equals timm's bit for bit; a draw depends on its address alone."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import timm.data
import torch
import torchvision.transforms.v2.functional as F  # noqa: N812 - its name everywhere
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.made import picture
from hubtool.core.errors import UsageError
from hubtool.core.seeds import Address
from hubtool.data import crops, policies, transforms
from hubtool.data.images import draw_pictures
from hubtool.records.activations import PIXELS
from hubtool.records.backbone import CropMode, Interpolation, Preprocess

SIZES = [(40, 30), (30, 40), (33, 33), (32, 32), (7, 90), (1, 1), (500, 31)]


def timms(image: Image.Image, pre: Preprocess) -> torch.Tensor:
    transform = timm.data.create_transform(
        input_size=(pre.in_chans, *pre.img_size),
        is_training=False,
        interpolation=pre.interpolation,
        mean=pre.mean,
        std=pre.std,
        crop_pct=pre.crop_pct,
        crop_mode=pre.crop_mode,
    )
    found = transform(image)
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("img_size", [(32, 32), (24, 40)])
def test_preprocessing_is_timms(crop_mode: CropMode, interpolation: Interpolation, img_size: tuple[int, int]) -> None:
    for crop_pct in (0.875, 0.95, 1.0, 0.9):
        pre = Preprocess(img_size=img_size, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation)
        for width, height in SIZES:
            image = picture(1, width, height)
            assert torch.equal(transforms.preprocess(image, pre), timms(image, pre)), (width, height, crop_pct)


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(8, 50), st.integers(8, 50)),
    st.floats(0.3, 1.0),
    st.sampled_from(["center", "squash", "border"]),
)
def test_preprocessing_is_timms_at_any_size(
    size: tuple[int, int], img_size: tuple[int, int], crop_pct: float, crop_mode: CropMode
) -> None:
    image = picture(2, *size)
    pre = Preprocess(img_size=img_size, crop_pct=crop_pct, crop_mode=crop_mode)
    found = transforms.preprocess(image, pre)
    try:
        assert torch.equal(found, timms(image, pre))
    except ValueError:  # a side that timm rounds to nothing
        assert crop_mode == "border"
        assert found.shape == (3, *img_size)


@pytest.mark.parametrize("size", [(1, 16), (16, 1), (3, 4000)])
def test_the_thinnest_picture_has_a_pixel_left(size: tuple[int, int]) -> None:
    pre = Preprocess(img_size=(8, 8), crop_pct=1.0, crop_mode="border")
    found = transforms.preprocess(picture(2, *size), pre)
    assert found.shape == (3, 8, 8)
    assert found.std() > 0


def test_every_pixel_value_is_normalised_as_timm_does() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([pixels, pixels[::-1], pixels.T], -1))
    pre = Preprocess(img_size=(16, 16), crop_pct=1.0, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
    assert torch.equal(transforms.preprocess(image, pre), timms(image, pre))


def test_one_channel_is_timms() -> None:
    pre = Preprocess(img_size=(20, 20), in_chans=1, mean=(0.5,), std=(0.25,), crop_mode="border")
    image = picture(3, mode="L")
    assert torch.equal(transforms.preprocess(image, pre), timms(image, pre))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("policy", ["light", "strong"])
def test_a_draw_is_fixed_by_seed_and_address(mode: str, policy: str) -> None:
    chans = len(mode)
    pre = Preprocess(img_size=(24, 32), in_chans=chans, mean=(0.5,) * chans, std=(0.2,) * chans)
    image = picture(4, 60, 50, mode)
    before = image.tobytes()

    def draw(seed: int, step: int, index: int) -> torch.Tensor:
        return transforms.augment(image, pre, policy, Address(purpose="augment", step=step, index=index), seed)

    first = draw(0, 1, 2)
    assert first.shape == (chans, 24, 32) and first.dtype == torch.float32 and first.is_contiguous()
    torch.rand(3)  # no global state takes part
    np.random.default_rng().random()
    assert torch.equal(draw(0, 1, 2), first)
    others = [draw(1, 1, 2), draw(0, 2, 2), draw(0, 1, 3)]
    assert all(not torch.equal(other, first) for other in others)
    assert image.tobytes() == before, "the picture itself stays as it is"


def test_no_policy_is_preprocessing() -> None:
    pre = Preprocess(img_size=(24, 24))
    address = Address(purpose="augment", step=3, index=1)
    assert torch.equal(transforms.augment(picture(), pre, "none", address, 0), transforms.preprocess(picture(), pre))


def test_unknown_policy() -> None:
    with pytest.raises(UsageError, match="unknown policy"):
        transforms.augment(picture(), Preprocess(img_size=(8, 8)), "wild", Address(purpose="augment"), 0)


OPERATIONS = {
    "shear_x": lambda x, m: F.affine(x, 0.0, [0, 0], 1.0, [math.degrees(math.atan(0.99 * m)), 0.0], fill=FILL[x.mode]),
    "shear_y": lambda x, m: F.affine(x, 0.0, [0, 0], 1.0, [0.0, math.degrees(math.atan(0.99 * m))], fill=FILL[x.mode]),
    "translate_x": lambda x, m: F.affine(x, 0.0, [int(m * x.width / 7), 0], 1.0, [0.0, 0.0], fill=FILL[x.mode]),
    "translate_y": lambda x, m: F.affine(x, 0.0, [0, int(m * x.height / 7)], 1.0, [0.0, 0.0], fill=FILL[x.mode]),
    "rotate": lambda x, m: F.rotate(x, 135 * m, fill=FILL[x.mode]),
    "brightness": lambda x, m: F.adjust_brightness(x, 1 + 0.99 * m),
    "color": lambda x, m: F.adjust_saturation(x, 1 + 0.99 * m),
    "contrast": lambda x, m: F.adjust_contrast(x, 1 + 0.99 * m),
    "sharpness": lambda x, m: F.adjust_sharpness(x, 1 + 0.99 * m),
    "posterize": lambda x, m: F.posterize(x, 8 - round(6 * abs(m))),
    "solarize": lambda x, m: F.solarize(x, round(255 * (1 - abs(m)))),
    "autocontrast": lambda x, m: F.autocontrast(x),
    "equalize": lambda x, m: F.equalize(x),
}
FILL = {"L": [124], "RGB": [124, 116, 104], "LA": [124, 116], "RGBA": [124, 116, 104, 90]}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_torchvisions(name: str) -> None:
    for mode in ("L", "RGB"):
        image = picture(5, 21, 16, mode)
        for magnitude in (-1.0, -0.5, 0.0, 1 / 30, 0.7, 1.0):
            found = policies.operate(image, frame_of(mode, (16, 21)), name, magnitude)
            assert found.mode == mode and found.tobytes() == OPERATIONS[name](image, magnitude).tobytes(), magnitude


def frame_of(mode: str, img_size: tuple[int, int]) -> crops.Frame:
    mean = tuple(value / 255 for value in FILL[mode])
    return crops.frame_of(Preprocess(img_size=img_size, in_chans=len(mode), mean=mean, std=(1.0,) * len(mode)))


def test_alpha_moves_with_the_picture_but_keeps_its_values() -> None:
    for mode in ("LA", "RGBA"):
        image = picture(6, 20, 20, mode)
        for name in policies.OPERATIONS:
            found = policies.operate(image, frame_of(mode, (20, 20)), name, 0.8)
            assert (found.size, found.mode) == ((20, 20), mode)
            if name in ("brightness", "color", "contrast", "sharpness", "posterize", "solarize"):
                assert found.getchannel("A").tobytes() == image.getchannel("A").tobytes()
            if name == "rotate":
                alpha = image.getchannel("A").rotate(108, fillcolor=FILL[mode][-1])
                assert found.getchannel("A").tobytes() == alpha.tobytes()


def test_strong_draws_every_operation_and_erases_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()

    def operate(image: Image.Image, frame: crops.Frame, name: str, magnitude: float) -> Image.Image:
        assert -1 <= magnitude <= 1
        seen[name] += 1
        return Image.new("RGB", image.size, (1, 2, 3))

    monkeypatch.setattr(policies, "operate", operate)
    frame = frame_of("RGB", (16, 16))
    drawn = [policies.draw(picture(), frame, "strong", Address(purpose="augment", index=i).seed(0)) for i in range(600)]
    assert set(seen) == set(policies.OPERATIONS) and max(seen.values()) < 3 * min(seen.values())
    assert 100 < sum(len(image.getcolors() or []) > 1 for image in drawn) < 200


def test_half_of_the_light_draws_are_mirrored_and_crops_vary() -> None:
    # left half black, right half white: the mean of the left side tells whether it was mirrored
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    pre = Preprocess(img_size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
    drawn = [
        transforms.augment(Image.fromarray(pixels), pre, "light", Address(purpose="augment", index=i), 0)
        for i in range(200)
    ]
    mirrored = sum(bool(x[:, :, 0].mean() > x[:, :, -1].mean()) for x in drawn)
    assert 70 <= mirrored <= 130
    assert len({x.numpy().tobytes() for x in drawn}) > 60


def test_draws_are_frozen() -> None:
    """A change of the arithmetic would change every published result: it must be a decision."""
    import hashlib

    pixels = np.arange(48 * 40 * 3, dtype=np.uint64).reshape(40, 48, 3) * 2654435761 % 251
    image = Image.fromarray(pixels.astype(np.uint8))
    frame = crops.frame_of(Preprocess(img_size=(16, 16), interpolation="nearest"))
    digest = hashlib.sha256()
    for index in range(40):
        seed = Address(purpose="augment", step=1, index=index).seed(0)
        digest.update(policies.draw(image, frame, "light", seed).tobytes())
    assert digest.hexdigest()[:16] == "c61df9d43bf25f4e"


def test_draws_need_no_torch() -> None:
    code = (
        "import sys; from PIL import Image; from hubtool.data import crops, policies\n"
        "frame = crops.Frame(8, 8, 3, 0.875, 'center', 'bicubic', (1, 2, 3))\n"
        "for seed in range(60): policies.draw(Image.new('RGB', (20, 10)), frame, 'strong', seed)\n"
        "print({'torch', 'torchvision', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_other_pixels_are_another_version_of_kept_features() -> None:
    """Who changes what a file becomes raises ``PIXELS``: features of the old pixels would be taken for those of the new."""
    (drawn,) = draw_pictures(7, 1)
    pre = Preprocess(img_size=(24, 24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    address = Address(purpose="augment", step=1, index=2)
    shown = [transforms.preprocess(drawn, pre), transforms.augment(drawn, pre, "light", address, 3)]
    found = [[float(x) for x in (x_CHW.mean(), x_CHW.std(), x_CHW[0, 3, 5])] for x_CHW in shown]
    assert PIXELS == 1
    assert found == [pytest.approx(row, abs=0.02) for row in ([0.25, 0.9, -1.42], [0.28, 0.9, -0.7])]
