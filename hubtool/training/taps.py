"""Convolutions whose outer taps never meet a pixel, as those of 5x5 on an input of 1x1: such taps have no gradient.

In bf16 on a CPU, torch 2.15 hands over unset memory in their place (seen on AVX512_BF16 with a 3x3 kernel of stride 2 and with
5x5 kernels, on inputs of 1x1: tests/training/test_taps.py). Everything else of that gradient, and the gradient of the
input, is right; so the taps are set to the zero that they have.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from hubtool.core.errors import UsageError

_STANDARDIZED = {"StdConv2d", "ScaledStdConv2d"}  # timm's, by name: they compute their weight from the parameter


def mask_unmet(model: nn.Module, trained: Collection[str], shape_CHW: tuple[int, int, int]) -> tuple[str, ...]:
    """From now on the gradient of ``trained`` weights is zero at taps that meet no pixel of a picture of ``shape_CHW``.

    Returns the names of the weights it holds for. Raises UsageError for a convolution with weight standardisation, where unset
    memory would reach every tap, and for one that reads inputs of several sizes. Those that pad their input themselves have
    no such tap.
    """
    convs = {path: module for path, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    wanted = {path: conv for path, conv in convs.items() if f"{path}.weight" in trained and max(conv.kernel_size) > 1}
    sizes = _input_sizes(model, wanted, shape_CHW) if wanted else {}
    masked = []
    for path in sizes:
        name, conv = f"{path}.weight", wanted[path]
        is_plain = type(conv).forward is nn.Conv2d.forward
        if not is_plain and type(conv).__name__ not in _STANDARDIZED:
            continue
        met, *others = (_met(conv, 0, height)[:, None] & _met(conv, 1, width)[None, :] for height, width in sizes[path])
        is_one = all(torch.equal(met, other) for other in others)
        if is_one and bool(met.all()):
            continue
        if not is_plain or not is_one:
            raise UsageError(
                "E-NUMERIC-TAPS",
                f"in half precision torch has no right gradient of {name}: its kernel is larger than its input",
                do="set train.precision=fp32, or a larger data.img_size",
            )
        conv.weight.register_hook(lambda gradient, unmet=~met: gradient.masked_fill(unmet, 0.0))
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


def _input_sizes(
    model: nn.Module, convs: Mapping[str, nn.Conv2d], shape_CHW: tuple[int, int, int]
) -> dict[str, set[tuple[int, int]]]:
    """Heights and widths of what each convolution reads, by its path; those that nothing calls are left out."""
    sizes: dict[str, set[tuple[int, int]]] = {}

    def note(path: str, x_BCHW: Tensor) -> None:
        sizes.setdefault(path, set()).add((x_BCHW.shape[-2], x_BCHW.shape[-1]))

    handles = [
        conv.register_forward_pre_hook(
            lambda _module, inputs, named, path=path: note(path, inputs[0] if inputs else named["input"]),
            with_kwargs=True,
        )
        for path, conv in convs.items()
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(torch.zeros((1, *shape_CHW)))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return sizes
