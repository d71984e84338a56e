"""What folding BatchNorm and torch.compile would gain in the frozen part, beside what hubtool runs.

    python -m benchmarks prefix                          resnet18, efficientnet_b0 and vit_tiny in fp32
    python -m benchmarks prefix --models resnet18 --precision bf16

Milliseconds a picture at batch size 32, each the best of ``--repeats``, and how far the features move. ``plain`` is the model as it
comes; ``laid out`` is what hubtool runs (``training/numerics.memory_format_of``); ``folded`` has BatchNorm in the
convolutions' weights besides; ``compiled`` is torch.compile with inductor's freezing, which folds too, with the seconds it
takes before the first picture. The last two give other bits than the model that is published.
"""

from __future__ import annotations

import argparse
import contextlib
import time
import warnings
from collections.abc import Callable
from typing import Any

BATCH = 32


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks prefix", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default="resnet18,efficientnet_b0,vit_tiny_patch16_224")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    print("| model | plain | laid out | folded | compiled | compiling | folded moves by | compiled moves by |")
    print("|---" * 8 + "|")
    for name in options.models.split(","):
        print(_row(name, options.precision, options.repeats), flush=True)
    return 0


def _row(name: str, precision: str, repeats: int) -> str:
    import timm
    import torch
    from torch.fx.experimental.optimization import fuse

    from hubtool.training.numerics import memory_format_of, torch_format

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    _settle(model)
    layout = torch_format(memory_format_of(model))
    x_BCHW = torch.rand(BATCH, 3, 224, 224)
    laid_out = x_BCHW.contiguous(memory_format=layout)

    def features(model: Any, x: Any) -> Callable[[], Any]:
        def run() -> Any:
            with torch.no_grad(), _autocast(precision):
                return model(x)

        return run

    plain = features(model, x_BCHW)
    plain_ms = _best_ms(plain, repeats)
    model = model.to(memory_format=layout)
    ours = features(model, laid_out)
    ours_ms, reference = _best_ms(ours, repeats), ours().float()
    try:
        folded = features(fuse(model).to(memory_format=layout), laid_out)
        folded_ms, folded_off = f"{_best_ms(folded, repeats):.1f}", _off(folded().float(), reference)
    except Exception as error:  # noqa: BLE001 - torch.fx does not trace every model: the row says so
        folded_ms, folded_off = f"– ({type(error).__name__})", "–"
    began = time.perf_counter()
    torch._inductor.config.freezing = True
    compiled = features(torch.compile(model), laid_out)
    found = compiled().float()
    compile_s = time.perf_counter() - began
    return (
        f"| {name} | {plain_ms:.1f} | {ours_ms:.1f} | {folded_ms} | {_best_ms(compiled, repeats):.1f} | {compile_s:.0f} s | "
        f"{folded_off} | {_off(found, reference)} |"
    )


def _settle(model: Any) -> None:
    """Running statistics of noise, so that features are neither dead nor huge."""
    import torch

    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(4, 3, 224, 224))
    model.eval()


def _autocast(precision: str) -> contextlib.AbstractContextManager[Any]:
    import torch

    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def _best_ms(run: Callable[[], Any], repeats: int) -> float:
    """Milliseconds a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
    return 1000 * min(times) / BATCH


def _off(found: Any, reference: Any) -> str:
    return f"{float((found - reference).abs().max() / reference.abs().max()):.0e}"
