"""Where the numbers and pictures of a run go: `metrics.jsonl`, TensorBoard, Weights & Biases, MLflow.

All of them are trackers of Accelerate. A service that fails never stops a run: its first error is shown, and
the service gets nothing more.
"""

import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import (
    LOGGER_TYPE_TO_CLASS,
    GeneralTracker,
    TensorBoardTracker,
    get_available_trackers,
)
from PIL import Image

from semipose.configs.errors import InputError
from semipose.models.files import METRICS_NAME, TRACKERS_NAME, read_json, write_json
from semipose.sharding.store.files import write_atomic
from semipose.training.settings import TrackerName

PROJECT = "semipose"


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Raise InputError if the package of a tracker is not installed."""
    available = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in available:
            raise InputError(
                f"trackers: {name} needs a package that is not installed: run `pip install {name}`, or "
                "leave it out"
            )


def make_trackers(
    names: Sequence[TrackerName],
    folder: Path,
    settings: Mapping[str, Any],
    *,
    last_step: int,
    say: Callable[[str], None],
) -> list[GeneralTracker]:
    """The trackers of a run, not yet started: `metrics.jsonl` and those that are named.

    settings: of the run, nested, as plain values; services list them beside its scores.
    last_step: the step from which the run continues, 0 for a new one. `say` takes sentences for the user.
    """
    trackers: list[GeneralTracker] = [JsonLines(folder / METRICS_NAME, keep_until_step=last_step, say=say)]
    for name in names:
        if name == "tensorboard":
            # Also at step 0: a run that starts again may find the lines of an earlier attempt.
            trackers.append(TensorBoardTracker(name, folder, purge_step=last_step + 1))
        else:
            trackers.append(Service(name, folder, settings, is_new=last_step == 0, say=say))
    return trackers


def log_picture(tracker: GeneralTracker, name: str, path: Path, step: int) -> None:
    """Send a picture to a tracker; one that takes no pictures ignores it."""
    if isinstance(tracker, Service):
        tracker.log_picture(name, path, step)
    elif isinstance(tracker, TensorBoardTracker):
        tracker.log_images({name: pixels(path)[None]}, step=step, dataformats="NHWC")


def pixels(path: Path) -> np.ndarray:
    """The pixels (H, W, 3) of a picture, uint8 RGB."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


class Service(GeneralTracker):
    """Sends a run to one of Accelerate's trackers that belongs to a service, under the name of its folder."""

    requires_logging_directory = False

    def __init__(
        self,
        name: TrackerName,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        is_new: bool,
        say: Callable[[str], None],
    ) -> None:
        self.name = name  # before super, which looks for it
        super().__init__()
        self.folder = folder
        self.settings = settings
        self.is_new = is_new
        self.say = say
        self.service: Any = None

    @property
    def tracker(self) -> Any:
        """The service's own object for the run; None if it has failed."""
        return self.service and self.service.tracker

    def start(self) -> None:
        """Begin a run at the service, or continue the one that this folder began."""
        with self._never_failing():
            path = self.folder / TRACKERS_NAME
            ids = read_json(path, cure="remove it") if path.exists() and not self.is_new else {}
            service = LOGGER_TYPE_TO_CLASS[self.name](PROJECT, **self._options(ids.get(self.name)))
            service.start()
            run_id = service.active_run.info.run_id if self.name == "mlflow" else service.init_kwargs["id"]
            write_json(path, ids | {self.name: run_id})
            if self.name not in ids:  # MLflow refuses to change them when a run is resumed
                service.store_init_configuration(flat(self.settings))
            self.service = service

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Send numbers; those that are not finite are left out."""
        with self._never_failing():
            if self.service:
                finite = {name: value for name, value in values.items() if math.isfinite(value)}
                self.service.log(finite, step=step)

    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Send a picture."""
        with self._never_failing():
            if self.service and self.name == "mlflow":
                self.service.log_artifact(str(path), "pictures")
            elif self.service:
                self.service.log_images({name: [pixels(path)]}, step=step)

    def finish(self) -> None:
        """End the run at the service."""
        with self._never_failing():
            if self.service:
                self.service.finish()

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Nothing: `start` has sent the settings."""

    def _options(self, run_id: str | None) -> dict[str, Any]:
        if self.name == "mlflow":
            return {"run_id": run_id} if run_id else {"run_name": self.folder.name}
        name = self.folder.name
        run_id = run_id or f"{name}-{uuid.uuid4().hex[:8]}"
        return {"name": name, "id": run_id, "resume": "allow", "dir": str(self.folder)}

    @contextmanager
    def _never_failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, the run continues
            self.service = None
            self.say(f"note: {self.name} gets nothing more of this run ({type(error).__name__}: {error})")


class JsonLines(GeneralTracker):
    """A tracker for Accelerate that appends one JSON object per call to a file.

    At its start it removes the lines beyond `keep_until_step`, and a line that a kill left unfinished. If
    lines up to that step are missing, as after a loss of power, `say` takes a sentence about them.
    """

    name = "jsonl"
    requires_logging_directory = False

    def __init__(self, path: Path, *, keep_until_step: int, say: Callable[[str], None]) -> None:
        super().__init__()
        self.path = path
        self.keep_until_step = keep_until_step
        self.say = say

    def start(self) -> None:
        """Cut the file back to the step from which the run continues."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        steps = [_step_of(line) for line in lines]
        kept = [line for line, step in zip(lines, steps, strict=True) if step <= self.keep_until_step]
        write_atomic(self.path, b"".join(line + b"\n" for line in kept))
        last = max((step for step in steps if step <= self.keep_until_step), default=0)
        if last < self.keep_until_step:
            self.say(
                f"note: {self.path} lacks the lines of steps {last + 1:g} to {self.keep_until_step}, which "
                "did not reach the disk before the machine stopped, or were removed"
            )
        if damaged := steps[:-1].count(math.inf):  # the last line may be one that a kill cut short
            self.say(f"note: {damaged} damaged lines are left out of {self.path}")

    @property
    def tracker(self) -> Path:
        """The file."""
        return self.path

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Append a line; numbers that JSON cannot hold (nan, infinity) become null."""
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names; lists as JSON."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = json.dumps(value) if isinstance(value, (list, tuple)) else value
    return values


def _step_of(line: bytes) -> float:
    """The step of a JSON line; infinite for a line that a kill cut short or a disk has damaged."""
    try:
        step = float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
    return step if math.isfinite(step) else math.inf
