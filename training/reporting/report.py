"""What a run reports: its progress, a line of numbers every N steps, and warnings.

The step hands over scalars on the device, and nothing waits for them: they are copied to the host only when a
line is due, in one transfer. Terms and times are those of the main process; other ranks neither show nor log.
"""

import math
import resource
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from semipose.configs.console import plain_console
from semipose.configs.errors import InputError
from semipose.training import checkpoint
from semipose.training.methods.method import OptionNames, Terms
from semipose.training.reporting.collapse import (
    LIMITS,
    CollapseSettings,
    CollapseWatch,
    LimitWatch,
    TrustWatch,
    steady_teacher,
)
from semipose.training.reporting.display import Display
from semipose.training.reporting.trackers import PROJECT, log_picture, make_trackers
from semipose.training.settings import TrackerName


class NonFiniteLoss(InputError):
    """A loss became infinite or not a number."""


class Report:
    """Gathers the terms of every step and reports them every `every` steps.

    Use it as a context manager around the loop: it starts the `trackers` (and `metrics.jsonl`) in `folder`,
    which get the `settings` of the run, shows a live bar on a terminal or prints a line per report elsewhere,
    and reports the remaining steps at the end. A resumed run calls `load_state_dict` before it enters.

    watch_from_step: from here on the teacher is watched for a collapse (the end of burn-in and ramp-up). If
    no pseudo label has counted, the report warns once, a twentieth of the run later, and again at the end.
    options: those of the method that this warning names; None: the method has no pseudo labels.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        *,
        total_steps: int,
        every: int,
        watch_from_step: int = 0,
        collapse: CollapseSettings | None = None,
        trackers: Sequence[TrackerName] = ("tensorboard",),
        settings: Mapping[str, Any] | None = None,
        options: OptionNames | None = None,
        title: str = "train",
        console: Console | None = None,
    ) -> None:
        self.folder = folder
        self.accelerator = accelerator
        self.total_steps = total_steps
        self.every = every
        self.watch_from_step = watch_from_step
        self.collapse = collapse or CollapseSettings()
        self.trackers = trackers
        self.settings = settings or {}
        self.net: Mapping[str, Any] = self.settings.get("net", {})
        self.watches: dict[str, CollapseWatch] = {}
        self.limits = {name: LimitWatch(reports=self.collapse.reports) for name in LIMITS}
        self.options = options
        self.trust = TrustWatch()
        self.losses: set[str] = set()
        self.teachers: dict[str, None] = {}
        self.last_step = 0
        self._interval = Interval()
        # The stream is passed so that the bar continues while sys.stdout is redirected (pycocotools).
        self._display = (
            Display(console or plain_console(file=sys.stdout), title=title, total=total_steps)
            if accelerator.is_main_process
            else None
        )

    def __enter__(self) -> "Report":
        # The trackers start here and not with the Accelerator, because a resumed run knows its step only now.
        self.accelerator.log_with = make_trackers(
            self.trackers, self.folder, self.settings, last_step=self.last_step, say=self.note
        )
        self.accelerator.init_trackers(PROJECT)
        if self._display:
            self._display.start(self.last_step)
        self._interval.resume_clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.flush()
                if self.last_step == self.total_steps and self.options and self.trust.finds_nothing:
                    self.note(self.trust.sentence("in the whole run", self.options, self.net))
        finally:
            if self._display:
                self._display.stop()

    def step(self, step: int, terms: Terms, waited_s: float, *, samples: int) -> None:
        """Take the terms of a step: 0-dim tensors, or floats on the host.

        `step` counts finished steps, including this one; `waited_s` is how long the host waited for its data;
        `samples` is the number of labelled and unlabelled people of the step over all ranks.
        Device terms are copied on the device, so the step may reuse their memory. Raises NonFiniteLoss if a
        report is due and a loss was not finite.
        """
        self.losses |= terms.losses.keys()
        self.teachers |= dict.fromkeys(terms.teachers)
        self._interval.add(step, terms.by_name(), waited_s, samples)
        self.last_step = step
        if self._display:
            self._display.advance(step)
        if step % self.every == 0:
            self.flush()

    def flush(self) -> None:
        """Report all steps so far, even if none is due: before a save, so that no broken state is kept."""
        if not self._interval.steps:
            return
        rows, speed = self._interval.read()
        self._interval = self._interval.successor()
        means = _means(rows)
        if self._display:
            self.accelerator.log({**means, **speed}, step=self.last_step)
            self._display.report(self.last_step, means, speed)
        for step, row in rows.items():
            if not all(math.isfinite(value) for name, value in row.items() if name in self.losses):
                terms = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
                raise NonFiniteLoss(
                    f"{self.folder}: the loss is not finite from step {step} on (seen at the report of step "
                    f"{self.last_step}): {terms}: {self.cure_of_non_finite()}"
                )
        if self.last_step > self.watch_from_step:
            self._watch(means)
        is_settled = self.last_step > self.watch_from_step + self.total_steps // 20
        if (
            self.trust.update(means, self.teachers, is_settled=is_settled)
            and self.last_step < self.total_steps
            and self.options
        ):
            self.note(self.trust.sentence(f"by step {self.last_step:,}", self.options, self.net))

    def cure_of_non_finite(self) -> str:
        """What to do about a loss or a weight that is not finite, with the checkpoint to continue from."""
        kept = checkpoint.kept_steps(self.folder)
        smaller = "a smaller learning rate (optim.lr)"
        if self.accelerator.mixed_precision == "fp16":
            smaller += ", or with precision=bf16 instead of fp16"
        if kept:
            folder = shlex.quote(str(self.folder))
            return f"continue from step {kept[-1]} by `semipose train --resume {folder}` with {smaller}"
        return f"no checkpoint was saved yet, so start again with {smaller}"

    def scores(self, step: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Log the scores of every network under its name, and show those that are not of a single joint."""
        for network, values in scores.items():
            self.accelerator.log({f"{network}/{name}": value for name, value in values.items()}, step=step)
            shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items() if "/" not in name)
            self.note(f"step {step}  scores of {network}: {shown}")

    def probe(self, step: int, values: Mapping[str, float]) -> None:
        """Log and show how right a teacher is (`Probe.measure`)."""
        if values:
            self.accelerator.log({f"probe/{name}": value for name, value in values.items()}, step=step)
            shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
            self.note(f"step {step}  the teacher in hidden annotations: {shown}")

    def picture(self, step: int, name: str, path: Path) -> None:
        """Send a picture to the trackers that take pictures, under its name."""
        for tracker in self.accelerator.trackers if self._display else ():
            log_picture(tracker, name, path, step)

    def note(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._display:
            self._display.line(text)

    @contextmanager
    def pause(self, activity: str) -> Iterator[None]:
        """Show `activity`; the time inside (evaluating, saving) does not count against samples/s."""
        self._interval.stop_clock()
        if self._display:
            self._display.activity(activity)
        try:
            yield
        finally:
            if self._display:
                self._display.activity(None)
            self._interval.resume_clock()

    @contextmanager
    def never_failing(self, what: str) -> Iterator[None]:
        """For what a run can do without: an error inside becomes a line, `note: WHAT (the error)`."""
        try:
            yield
        except Exception as error:
            self.note(f"note: {what} ({type(error).__name__}: {error})")

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: the last step, and the state of the watches."""
        watches = {name: watch.state_dict() for name, watch in self.watches.items()}
        limits = {name: watch.state_dict() for name, watch in self.limits.items()}
        trust = self.trust.state_dict()
        return {"last_step": self.last_step, "watches": watches, "limits": limits, "trust": trust}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.last_step = state["last_step"]
        for name, watch_state in state["watches"].items():
            self._watch_of(name).load_state_dict(watch_state)
        for name, limit_state in state.get("limits", {}).items():
            self.limits[name].load_state_dict(limit_state)
        self.trust.load_state_dict(state.get("trust", {}))

    def _watch_of(self, name: str) -> CollapseWatch:
        """The watch of a term; there is one for each teacher of the method."""
        limits = self.collapse
        return self.watches.setdefault(name, CollapseWatch(share=limits.share, reports=limits.reports))

    def _watch(self, means: Mapping[str, float]) -> None:
        watched = [f"{term}{mark}" for mark in self.teachers for term in ("teacher_peak", "teacher_cells")]
        for name in (name for name in watched if name in means):
            watch = self._watch_of(name)
            if watch.update(means[name]):
                self.note(
                    f"warning: {name} has fallen from {watch.best:.3g} to {watch.smoothed:.3g} by step "
                    f"{self.last_step}: the teacher is collapsing. "
                    f"{steady_teacher(self.options, self.settings.get('method', {}))}."
                )
        for name, limit in LIMITS.items():
            if name in means and self.limits[name].update(limit.is_beyond(means[name])):
                self.note(
                    f"warning: {name} is {means[name]:.3g} by step {self.last_step}, the report number "
                    f"{self.collapse.reports} in a row outside {limit.low:g} to {limit.high:g}: "
                    f"{limit.meaning}."
                )


class Interval:
    """The steps since the last report: their terms, still on the device, and the time that they took."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self._device_rows: list[torch.Tensor] = []
        self._device_names: list[tuple[str, ...]] = []
        self._host_rows: list[dict[str, float]] = []
        self._waited_s = 0.0
        self._samples = 0
        self._seconds = 0.0
        self._running_since: float | None = None

    def add(
        self, step: int, terms: Mapping[str, torch.Tensor | float], waited_s: float, samples: int
    ) -> None:
        """Keep the terms of a step, those on the device as one copied row."""
        on_device = {name: term.detach() for name, term in terms.items() if isinstance(term, torch.Tensor)}
        if any(term.ndim for term in on_device.values()):
            raise ValueError(
                f"terms must be 0-dim: { {name: tuple(t.shape) for name, t in on_device.items()} }"
            )
        self.steps.append(step)
        self._device_names.append(tuple(on_device))
        if on_device:
            self._device_rows.append(torch.stack([term.to(torch.float32) for term in on_device.values()]))
        self._host_rows.append({n: float(term) for n, term in terms.items() if n not in on_device})
        self._waited_s += waited_s
        self._samples += samples

    def read(self) -> tuple[dict[int, dict[str, float]], dict[str, float]]:
        """All terms by step, copied to the host in one transfer, and the speed."""
        flat = iter(torch.cat(self._device_rows).tolist() if self._device_rows else [])
        columns = zip(self.steps, self._device_names, self._host_rows, strict=True)
        rows = {step: {name: next(flat) for name in names} | host for step, names, host in columns}
        seconds = max(self._seconds_until_now(), 1e-9)
        speed = {
            "samples_per_s": self._samples / seconds,
            "data_wait_share": min(self._waited_s / seconds, 1.0),
            "seconds_per_step": seconds / len(rows),
            "peak_memory_gib": peak_memory_gib(),
        }
        return rows, speed

    def successor(self) -> "Interval":
        """The interval after this one; its clock runs if this one's does."""
        following = Interval()
        if self._running_since is not None:
            following.resume_clock()
        return following

    def stop_clock(self) -> None:
        """Stop counting time."""
        self._seconds = self._seconds_until_now()
        self._running_since = None

    def resume_clock(self) -> None:
        """Count time from now on."""
        self._running_since = time.perf_counter()

    def _seconds_until_now(self) -> float:
        running = 0.0 if self._running_since is None else time.perf_counter() - self._running_since
        return self._seconds + running


def peak_memory_gib() -> float:
    """The peak memory of this process so far: of its GPU if it has one, otherwise main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _means(rows: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """The mean of every term over the steps that have it."""
    names = dict.fromkeys(name for row in rows.values() for name in row)
    columns = {name: [row[name] for row in rows.values() if name in row] for name in names}
    return {name: math.fsum(values) / len(values) for name, values in columns.items()}
