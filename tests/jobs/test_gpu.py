"""What only a GPU can show: equal bits twice, cached and uncached, and after kills; packages that hold there and elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hubtool.core.errors import UsageError
from hubtool.core.progress import SilentReporter
from hubtool.jobs.finetune import finetune
from hubtool.jobs.pack import pack
from hubtool.jobs.predict import predict
from hubtool.jobs.prove_resume import prove_resume
from hubtool.jobs.push import push
from hubtool.jobs.reproduce import reproduce
from hubtool.jobs.verify import verify
from hubtool.records.run import Result
from hubtool.server.embedded import EmbeddedHub
from jobs import finished
from jobs.test_cached_backbones import ARCHITECTURES, RECIPE, Told, few, write_recipe

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
    pytest.mark.usefixtures("blank_plots"),
]


def train(root: Path, run: str, told: SilentReporter, **options: Any) -> Result:
    (root / "data").mkdir(exist_ok=True)
    call = {"data": few("photos", root), "device": "cuda", "num_workers": 0} | options
    return finetune(root / "mine.yaml", run=root / run, reporter=told, **call).result


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("freeze", ["all", "{fraction: 0.5}"], ids=["head", "middle"])
@pytest.mark.parametrize(("name", "size"), ARCHITECTURES)
def test_cached_is_uncached(name: str, size: int, freeze: str, precision: str, tmp_path: Path, home: Path) -> None:
    write_recipe(tmp_path, name, size, freeze, precision)
    told = Told()
    plain = train(tmp_path, "plain", told, use_cache=False)
    cached = train(tmp_path, "cached", told)
    assert not [line for line in told.lines if "frozen part" in line or "no activations" in line], told.lines
    (cache,) = (home / "cache" / "activations").iterdir()
    assert (cache / "rows.bin").stat().st_size > 0
    assert cached.weights_digest == plain.weights_digest
    assert [c.value for c in cached.claims] == [c.value for c in plain.claims]
    assert plain.is_frozen_equal and not plain.nondeterministic
    assert plain.numerics.device.startswith("cuda ")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("name", "size"), ARCHITECTURES)
def test_everything_trained_twice_ends_alike(name: str, size: int, precision: str, tmp_path: Path, home: Path) -> None:
    write_recipe(tmp_path, name, size, "none", precision)
    told = Told()
    found = [train(tmp_path, f"run{workers}", told, num_workers=workers) for workers in (0, 2)]
    assert found[0].weights_digest == found[1].weights_digest
    assert not found[0].nondeterministic


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("freeze", ["all", "{fraction: 0.5}", "none"], ids=["head", "middle", "nothing"])
def test_killed_and_taken_up_again_it_ends_alike(freeze: str, precision: str, tmp_path: Path, home: Path) -> None:
    path = write_recipe(tmp_path, "resnet18", 64, freeze, precision)
    overrides = ["train.batch_size=8", "train.grad_accum_steps=2"]
    proof = prove_resume(path, data=few("photos", tmp_path), overrides=overrides, device="cuda", num_workers=0, seed=1)
    assert proof.killed_at


def test_a_kernel_that_is_not_deterministic_is_named(tmp_path: Path, home: Path) -> None:
    """The backward pass of adaptive average pooling to more than one pixel adds up with atomics."""
    finished.write_recipe(
        tmp_path / "mine.yaml",
        RECIPE.replace("local:PLACE", "torchvision:alexnet")
        .replace("FREEZE", "none")
        .replace("SIZE", "128")
        .replace("PRECISION", "fp32")
        .replace("drop_rate: 0.1", "drop_rate: 0.0"),
    )
    told = Told()
    result = train(tmp_path, "run", told, overrides=["backbone.pretrained=false"])
    assert result.nondeterministic == ("adaptive_avg_pool2d_backward_cuda",)
    assert any("no deterministic kernel of adaptive_avg_pool2d_backward_cuda" in line for line in told.lines), (
        told.lines
    )


def test_a_package_holds_on_the_gpu_and_on_the_cpu(tmp_path: Path, home: Path) -> None:
    recipe = finished.write_recipe(tmp_path / "mine.yaml")
    data = finished.draw_pictures(tmp_path / "data")
    report = finetune(recipe, data=data, run=tmp_path / "run", device="cuda", num_workers=0)
    package = Path(pack(report.run).package)
    checked = verify(package, data=data)
    assert checked.is_ok, checked.findings
    details = {f.name: f.detail for f in checked.findings}
    assert details["evaluated again: val/top1"].endswith("exact"), details
    with EmbeddedHub(tmp_path / "hub") as hub:
        push(package, "me/bars", hub=hub.url, yes=True)
        verdict = reproduce("me/bars", data=data, hub=hub.url, out=tmp_path / "again").verdict
    assert (verdict.state, verdict.weights_equal, verdict.findings) == ("exact", True, ())
    on_gpu, on_cpu = ([p.called for p in predict(str(package), [data], device=device)] for device in ("cuda", "cpu"))
    assert on_gpu == on_cpu
    command = [sys.executable, "-m", "hubtool", "verify", str(package), "--data", str(data), "--json"]
    environ = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_torchrun_with_one_process_is_a_run_by_itself(tmp_path: Path, home: Path) -> None:
    write_recipe(tmp_path, "resnet18", 64, "all", "fp32")
    alone = train(tmp_path, "alone", Told())
    data = few("photos", tmp_path)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "1",
        "-m",
        "hubtool",
        "--",
        "finetune",
    ]
    command += ["mine.yaml", "--data", str(data), "--run", "run", "--device", "cuda", "--workers", "0"]
    subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=True)
    assert Result.read(tmp_path / "run" / "result.json").weights_digest == alone.weights_digest


def test_more_processes_than_gpus_are_refused(tmp_path: Path, home: Path) -> None:
    write_recipe(tmp_path, "resnet18", 64, "all", "fp32")
    num = torch.cuda.device_count() + 1
    overrides = [f"train.grad_accum_steps={num}", f"train.batch_size={num * 4}"]
    with pytest.raises(UsageError, match="GPU"):
        train(tmp_path, "run", Told(), num_processes=num, overrides=overrides)
