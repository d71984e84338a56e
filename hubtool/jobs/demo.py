"""hubtool demo: the main job offline on the digits and the backbone that travel with hubtool, told as a story."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np

from hubtool.core.files import make_dirs, write_text
from hubtool.core.progress import SILENT, Reporter
from hubtool.core.settings import BUNDLED, read_settings
from hubtool.data.images import write_png
from hubtool.jobs.finetune import finetune
from hubtool.jobs.pack import pack
from hubtool.jobs.pull import pull
from hubtool.jobs.push import push
from hubtool.jobs.reproduce import reproduce
from hubtool.records.reports import DemoReport

BACKBONE = "bundled:test_resnet.fractal"
REPO = "demo/digits"
RECIPE = "last-stage"
_FINISHED = "finished.json"


def demo(*, reporter: Reporter = SILENT) -> DemoReport:
    """Pull, finetune, pack, push to the embedded hub, reproduce. About a minute on two cores.

    Everything lies under HUBTOOL_HOME; a demo that was killed goes on, a finished one starts anew.
    """
    started = time.monotonic()
    home = read_settings().home
    _keep_caches_under(home)
    place = home / "demo"
    if (place / _FINISHED).exists():
        shutil.rmtree(place)
    reporter.say(f"1/5 pull: {BACKBONE}, a small ResNet pretrained on drawn fractals")
    entry = pull(BACKBONE, reporter=reporter).entry
    data = write_digits(place / "digits")
    reporter.say(f"2/5 finetune: recipe {RECIPE} on 1,797 handwritten digits in {data}")
    run = finetune(RECIPE, data=data, run=place / "run", reporter=reporter)
    reporter.say("3/5 pack: weights, card and evidence into one directory")
    package = pack(Path(run.run), out=place / "package", reporter=reporter)
    reporter.say(f"4/5 push: {REPO} to the hub embedded in this process")
    pushed = push(Path(package.package), REPO, hub="local", yes=True, reporter=reporter)
    reporter.say("5/5 reproduce: fetch it, train again from what was published, compare")
    again = reproduce(REPO, data=data, hub="local", out=place / "reproduction", reporter=reporter)
    report = DemoReport(
        backbone=entry.ref,
        run=run.run,
        package=package.package,
        repo=REPO,
        commit=pushed.commit or "",
        hub_root=str(home / "hub"),
        metrics={claim.name: claim.value for claim in run.result.claims},
        reproduce={"verdict": again.verdict.state},
        wall_s=round(time.monotonic() - started, 2),
    )
    write_text(place / _FINISHED, report.to_json().decode() + "\n")
    return report


def write_digits(directory: Path) -> Path:
    """The bundled digits as a folder of PNGs, one folder per class, named by their number. 1,797 pictures of 8x8."""
    with np.load(BUNDLED / "digits" / "digits.npz") as arrays:
        images_NHW, labels_N = arrays["images"], arrays["labels"]
    for number in range(10):
        make_dirs(directory / str(number))
    for index, (image_HW, label) in enumerate(zip(images_NHW, labels_N, strict=True)):
        path = directory / str(label) / f"{index:04d}.png"
        if not path.exists():
            write_png(path, image_HW)
    return directory


def _keep_caches_under(home: Path) -> None:
    """A first look at hubtool leaves nothing outside HUBTOOL_HOME; a variable that is set stays as it is."""
    for name, directory in (
        ("HF_HOME", "huggingface"),
        ("TORCH_HOME", "torch"),
        ("WANDB_CACHE_DIR", "wandb"),
        ("WANDB_CONFIG_DIR", "wandb"),
        ("WANDB_DATA_DIR", "wandb"),
        ("MPLCONFIGDIR", "matplotlib"),
    ):
        os.environ.setdefault(name, str(home / "cache" / directory))
