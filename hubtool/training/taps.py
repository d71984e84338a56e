"""Convolutions whose outer taps never meet a pixel, as those of 5x5 on an input of 1x1: such taps have no gradient.

In bf16 on a CPU, torch 2.15 hands over unset memory in their place (seen on AVX512_BF16 with a 3x3 kernel of stride 2 and with
5x5 kernels, on inputs of 1x1: tests/training/test_taps.py). Everything else of that gradient, and the gradient of the
input, is right; so the taps are set to the zero that they have.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from hubtool.core.errors import UsageError

_STANDARDIZED = {"StdConv2d", "ScaledStdConv2d"}  # timm's, by name: they compute their weight from the parameter


def mask_unmet(model: nn.Module, trained: Collection[str], x_BCHW: Tensor) -> tuple[str, ...]:
    """From now on the gradient of ``trained`` weights is zero at taps that meet no pixel of a picture as large as ``x_BCHW``.

    Returns the names of the weights it holds for. Raises UsageError for a convolution with weight standardisation, where unset
    memory would reach every tap. Those that pad their input themselves have no such tap.
    """
    sizes = _input_sizes(model, x_BCHW)
    masked = []
    for path, conv in model.named_modules():
        name = f"{path}.weight"
        if path not in sizes or name not in trained or not isinstance(conv, nn.Conv2d):
            continue
        is_plain = type(conv).forward is nn.Conv2d.forward
        if not is_plain and type(conv).__name__ not in _STANDARDIZED:
            continue
        rows, columns = (_met(conv, axis, sizes[path][axis]) for axis in (0, 1))
        if bool(rows.all()) and bool(columns.all()):
            continue
        if not is_plain:
            raise UsageError(
                "E-NUMERIC-TAPS",
                f"in half precision torch has no right gradient of {name}: its kernel is larger than its input",
                do="set train.precision=fp32, or a larger data.img_size",
            )
        unmet = ~(rows[:, None] & columns[None, :])
        conv.weight.register_hook(lambda gradient, unmet=unmet: gradient.masked_fill(unmet, 0.0))
        masked.append(name)
    return tuple(masked)


def _met(conv: nn.Conv2d, axis: int, size: int) -> Tensor:
    """For each tap along an axis whether any output reads a pixel through it, of ``size`` pixels."""
    kernel, stride, dilation = conv.kernel_size[axis], conv.stride[axis], conv.dilation[axis]
    if conv.padding_mode != "zeros":  # padded with pixels
        return torch.ones(kernel, dtype=torch.bool)
    reach = dilation * (kernel - 1)
    if isinstance(conv.padding, str):
        before, total = (reach // 2, reach) if conv.padding == "same" else (0, 0)
    else:
        before, total = conv.padding[axis], 2 * conv.padding[axis]
    first = torch.arange(max(0, (size + total - reach - 1) // stride + 1)) * stride - before
    read = first[:, None] + dilation * torch.arange(kernel)[None, :]
    return ((read >= 0) & (read < size)).any(dim=0)


def _input_sizes(model: nn.Module, x_BCHW: Tensor) -> dict[str, tuple[int, int]]:
    """Height and width of what each convolution reads, by its path; the largest where it is called more than once."""
    sizes: dict[str, tuple[int, int]] = {}

    def note(path: str, found: tuple[int, int]) -> None:
        before = sizes.get(path, found)
        sizes[path] = (max(before[0], found[0]), max(before[1], found[1]))

    handles = [
        module.register_forward_pre_hook(
            lambda _module, inputs, path=path: note(path, (inputs[0].shape[-2], inputs[0].shape[-1]))
        )
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(x_BCHW)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return sizes
