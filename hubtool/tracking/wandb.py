"""The W&B sink: offline a file in ``RUN/logs/wandb``, online the service as well. Never a prompt, argv, host or user name."""

from __future__ import annotations

import contextlib
import http.client
import netrc
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hubtool.core.errors import HubtoolError
from hubtool.core.settings import Settings, place_caches, read_settings
from hubtool.records.dataset import DataManifest
from hubtool.records.log import Event
from hubtool.records.recipe_file import without_directory
from hubtool.records.run import Result
from hubtool.tracking import media
from hubtool.tracking.sinks import Place

DEFAULT_PROJECT = "hubtool"
PROBE_S = 3.0
FINISH_S = 8.0


class WandbSink:
    """One row per global_step; the run's id is the one in ``RUN/logs/sinks.json``, also after a crash.

    Online needs a key and an answer within three seconds; else the run is written offline, with one warning, and
    ``wandb sync`` sends it later.
    """

    def __init__(self, place: Place) -> None:
        settings = read_settings()
        place_caches(settings)
        import wandb

        self._wandb: Any = wandb
        self._asks_pandas = self._wandb.util.pd_available
        _import_less(wandb)
        self._run_dir = place.run_dir
        self._directory = place.directory
        self._has_images = place.log.wandb.images
        self._warn = place.warn
        self._row: dict[str, Any] = {}
        self._row_step = -1
        _empty(place.directory)
        library = _library_settings(wandb)
        mode = _mode(place, settings, wandb)
        if mode == "online":
            library.base_url = _url(settings, wandb)
        try:
            self._run: Any = self._begin(place, mode, library)
        except wandb.Error as error:
            if mode == "offline" or wandb.run is not None:
                raise
            wandb.teardown()  # its helper process holds the id of the run that failed; nobody else uses it here
            place.warn(
                f"W&B does not take the run ({_first_line(error)}): it is written offline (`wandb sync` sends it)"
            )
            mode = "offline"
            _empty(place.directory)
            self._run = self._begin(place, mode, library)
        # Online the service has the rows of an earlier session already; offline the file starts empty.
        self._first_step = int(self._run.step) if mode == "online" else 0

    def write(self, event: Event) -> None:
        value = self._value(event)
        if value is None:
            return
        if event.global_step > self._row_step:
            self._send_row()
            self._row_step = event.global_step
        self._row[f"{event.tag}/{event.split}"] = value
        self._row["epoch"] = event.epoch

    def flush(self) -> None:
        """Nothing to do: a row is sent when the next step begins, for W&B cannot add to one that it has."""

    def close(self) -> None:
        self._send_row()
        self._run.summary.update(summary_of(self._run_dir))
        self._wandb.util.pd_available = self._asks_pandas
        try:
            self._run.finish()
        except TimeoutError:
            self._warn(
                f"W&B did not take everything within {FINISH_S:g} s of the end: it lies in {self._directory} "
                f"(`wandb sync {self._directory}/run-*` sends it)"
            )

    def _begin(self, place: Place, mode: str, library: Any) -> Any:
        choice = place.log.wandb
        with _without_launcher(self._wandb):
            return self._wandb.init(
                id=place.id,
                name=place.run_dir.name,
                project=choice.project or DEFAULT_PROJECT,
                entity=choice.entity,
                group=choice.group,
                tags=choice.tags,
                mode=mode,
                resume="allow" if mode == "online" else None,
                reinit="create_new",
                dir=str(place.directory.parent),
                config=config_of(place),
                settings=library,
            )

    def _send_row(self) -> None:
        if self._row and self._row_step >= self._first_step:
            self._run.log(self._row, step=self._row_step, commit=True)
        self._row = {}

    def _value(self, event: Event) -> Any:
        """What W&B is given for an event; None: it stays here."""
        if event.kind == "scalar":
            return event.value
        if event.kind == "histogram":
            h = media.read_histogram(self._run_dir, event)
            return self._wandb.Histogram(np_histogram=(list(h.counts), [h.min, *h.limits]))
        if event.kind in ("image", "figure") and self._has_images:
            media.read_bytes(self._run_dir, event)  # the file is the one that was logged
            return self._wandb.Image(str(self._run_dir / str(event.path)))
        return None


def config_of(place: Place) -> dict[str, Any]:
    """The resolved recipe and what names the result; the recipe as written, but for a directory of this machine, and the
    git commit are the code."""
    config: dict[str, Any] = {
        "resolved": place.resolved.to_dict(),
        "recipe_digest": place.resolved.digest(),
        "backbone_digest": place.resolved.backbone.digest(),
    }
    with contextlib.suppress(HubtoolError):
        config["data_digest"] = DataManifest.read(place.run_dir / "data.json").digest()
    recipe = place.run_dir / "recipe.yaml"
    if recipe.exists():
        config["recipe"] = without_directory(recipe.read_text(encoding="utf-8"), place.resolved.backbone.ref)
    return config | _git_commit()


def summary_of(run_dir: Path) -> dict[str, Any]:
    """The claims and the digest of the weights, once there is a result."""
    try:
        result = Result.read(run_dir / "result.json")
    except HubtoolError:
        return {}
    claims = {f"claims/{claim.name}": claim.value for claim in result.claims}
    return claims | {"weights_digest": result.weights_digest, "num_trainable": result.num_trainable}


def _library_settings(wandb: Any) -> Any:
    """No argv, host, user, source, system metrics or console: what names the result is in the config."""
    return wandb.Settings(
        silent=True,
        console="off",
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        disable_git=True,
        disable_code=True,
        save_code=False,
        disable_job_creation=True,
        host="",
        username="",
        email="",
        program="",
        program_relpath="",
        init_timeout=FINISH_S,
        finish_timeout=FINISH_S,
        finish_timeout_raises=True,  # silent, it would say nothing of what it did not send
        x_graphql_timeout_seconds=FINISH_S - 2,
        x_graphql_retry_max=1,
    )


def _import_less(wandb: Any) -> None:
    """Leave out what the library would import to no purpose here: while a thread imports, training waits for the interpreter.

    pandas takes 0.3 s and is only asked whether a histogram is a data frame (until the sink is closed the type's name tells);
    requests is there for telemetry, which is switched off. Another version of the library may be slower, no more.
    """
    if "pandas" not in sys.modules:
        wandb.util.pd_available = False
    with contextlib.suppress(ImportError, AttributeError):
        if not wandb.env.error_reporting_enabled():
            from wandb.analytics.opentelemetry import opentelemetry_proxy

            opentelemetry_proxy.disable()


@contextlib.contextmanager
def _without_launcher(wandb: Any) -> Iterator[None]:
    """Within, ``init`` does not import the library's launcher (0.25 s) for inputs that only who imported it can have staged."""
    run, name = getattr(wandb.sdk.wandb_run, "Run", None), "_detect_and_apply_job_inputs"
    if "wandb.sdk.launch" in sys.modules or not hasattr(run, name):
        yield
        return
    kept = getattr(run, name)
    setattr(run, name, lambda _run: None)
    try:
        yield
    finally:
        setattr(run, name, kept)


def _empty(directory: Path) -> None:
    """The library's process outlives a killed run for a moment and may still write there."""
    for _ in range(20):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            break
        time.sleep(0.05)
    directory.mkdir(parents=True, exist_ok=True)


def _mode(place: Place, settings: Settings, wandb: Any) -> str:
    """``online`` only with a key and an answering service. ``WANDB_MODE=offline`` is honoured."""
    if place.log.wandb.mode != "online" or settings.wandb_mode in ("offline", "disabled", "dryrun"):
        return "offline"
    url = _url(settings, wandb)
    if not (settings.wandb_api_key or _has_netrc_key(url)):
        place.warn("W&B has no key here: the run is written offline (`wandb login`, then `wandb sync` sends it)")
        return "offline"
    if not _answers(url):
        place.warn(f"{url} does not answer: the run is written offline (`wandb sync` sends it)")
        return "offline"
    return "online"


def _url(settings: Settings, wandb: Any) -> str:
    """Where the service is: the environment, else the library's own settings files and default."""
    return settings.wandb_url or str(wandb.setup().settings.base_url)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _has_netrc_key(url: str) -> bool:
    try:
        return netrc.netrc().authenticators(urllib.parse.urlsplit(url).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _answers(url: str) -> bool:
    """Whether anything speaks HTTP there within ``PROBE_S``. No key is sent."""
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=PROBE_S)
    try:
        connection.request("HEAD", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _git_commit() -> dict[str, Any]:
    """The commit of the directory one works in, and whether it has changes; nothing where there is no repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"git_commit": commit.strip(), "git_is_dirty": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PROBE_S).stdout
