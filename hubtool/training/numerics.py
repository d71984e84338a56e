"""What decides the last bits, set by rule and recorded: device, threads, determinism, TF32."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import warnings
from collections.abc import Iterator
from typing import Any

import torch

import hubtool
from hubtool.core.errors import UsageError
from hubtool.records.environment import Environment, Numerics

_NO_KERNEL = " does not have a deterministic implementation"
_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow")


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA, then MPS, then the CPU. Raises UsageError for one that is not here."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if has[kind])
    if not has.get(name, False):
        here = [kind for kind, is_here in has.items() if is_here]
        raise UsageError("E-DEVICE", f"no device {name!r} here", do=f"choose one of auto, {', '.join(here)}")
    return torch.device(name)


def is_slow(device: str, precision: str) -> bool:
    """Whether a precision costs time here instead of saving it: a processor without instructions for it computes it in
    software (bf16 on AVX2: resnet18 seven times as long as fp32, efficientnet_b0 seventy times)."""
    if device != "cpu" or precision == "fp32" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    mkldnn = torch.ops.mkldnn
    return not (mkldnn._is_mkldnn_bf16_supported() if precision == "bf16" else mkldnn._is_mkldnn_fp16_supported())


def describe_device(name: str) -> str:
    """Its kind and model: ``cpu``, ``cuda NVIDIA H200``."""
    device = choose_device(name)
    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device.type)


def set_numerics(
    device: str,
    *,
    libraries: tuple[str, ...] = (),
    num_threads: int | None = None,
    num_processes: int = 1,
    memory_format: str = "contiguous",
) -> tuple[torch.device, Numerics]:
    """Set what decides the last bits for this process, and say what it is.

    ``num_threads`` is a resumed run's (another number of threads sums in another order); ``libraries`` are further
    distributions whose version matters. TF32 is off and deterministic kernels are on; an operation that has none
    makes torch warn, and is not hidden.
    """
    chosen = choose_device(device)
    if num_threads is not None and num_threads != torch.get_num_threads():
        torch.set_num_threads(num_threads)
    if chosen.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return chosen, Numerics(
        device=describe_device(chosen.type),
        cpu_capability=_cpu_capability(),
        num_threads=torch.get_num_threads(),
        num_processes=num_processes,
        memory_format=memory_format,
        libraries={name: version for name in (*_LIBRARIES, *libraries) if (version := _version(name))},
    )


@contextlib.contextmanager
def nondeterministic_operations() -> Iterator[list[str]]:
    """What torch warns of within the block: operations that ran without a deterministic kernel. Other warnings go on."""
    found: list[str] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{_NO_KERNEL}")
        show = warnings.showwarning

        def keep(message: Any, *arguments: Any, **options: Any) -> None:
            name, is_ours, _ = str(message).partition(_NO_KERNEL)
            if not is_ours:
                show(message, *arguments, **options)
            elif name not in found:
                found.append(name)

        warnings.showwarning = keep
        yield found


def memory_format_of(model: Any) -> str:
    """``channels_last`` where most parameters are convolutions': a quarter less time there (resnet18 and efficientnet_b0,
    fp32 and bf16, on two AVX-512 cores), and nothing gained elsewhere. A rule, so that a run never depends on a stopwatch."""
    total = sum(parameter.numel() for parameter in model.parameters())
    convs = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    return "channels_last" if 2 * convs > total else "contiguous"


def torch_format(memory_format: str) -> torch.memory_format:
    return torch.channels_last if memory_format == "channels_last" else torch.contiguous_format


def environment(numerics: Numerics) -> Environment:
    return Environment(
        numerics=numerics,
        os=platform.system(),
        machine=platform.machine(),
        python=platform.python_version(),
        hubtool=hubtool.__version__,
        num_cpus=os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
    )


def _cpu_capability() -> str:
    """torch's dispatch level; ``+AMX`` where its tile units take the bf16 products."""
    level = str(torch.backends.cpu.get_cpu_capability())
    return f"{level}+AMX" if torch.cpu._is_amx_tile_supported() else level


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
