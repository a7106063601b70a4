"""Detects teachers that teach nothing (they collapse, or their labels never count) and scores that fall."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from semipose.configs.settings import settings
from semipose.training.methods.method import OptionNames

SMOOTHING = 0.7
FALL_SHARE = 0.9
FALL_SCORINGS = 2
"""A score has fallen when it is below this share of its best in so many scorings in a row."""


@settings
class CollapseSettings:
    """When the run warns that a teacher collapses."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """A teacher has fallen when its smoothed peak or share of active cells is below this share of its
    best."""
    reports: Annotated[int, Field(ge=1)] = 5
    """Number of consecutive reports after which the run warns about a fallen teacher, a student without
    heatmaps, or too many pseudo people."""


class CollapseWatch:
    """Detects that a value that should rise stays far below its best: the teacher detects nobody any more."""

    def __init__(self, *, share: float, reports: int) -> None:
        self.share = share
        self.reports = reports
        self.smoothed: float | None = None
        self.best = 0.0
        self.fallen = 0

    def update(self, value: float) -> bool:
        """Take the mean of a report; True once per episode, when the value has been low for long enough."""
        before = value if self.smoothed is None else self.smoothed
        self.smoothed = SMOOTHING * before + (1 - SMOOTHING) * value
        self.best = max(self.best, self.smoothed)
        self.fallen = self.fallen + 1 if self.smoothed < self.share * self.best else 0
        return self.fallen == self.reports

    def state_dict(self) -> dict[str, Any]:
        """The state to save."""
        return {"smoothed": self.smoothed, "best": self.best, "fallen": self.fallen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.smoothed, self.best, self.fallen = state["smoothed"], state["best"], state["fallen"]


class LimitWatch:
    """Detects that a term has been beyond its limit for several reports in a row."""

    def __init__(self, *, reports: int) -> None:
        self.reports = reports
        self.beyond = 0

    def update(self, is_beyond: bool) -> bool:
        """Take whether a report's mean is beyond the limit; True once per episode."""
        self.beyond = self.beyond + 1 if is_beyond else 0
        return self.beyond == self.reports

    def state_dict(self) -> dict[str, Any]:
        """The state to save."""
        return {"beyond": self.beyond}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.beyond = state["beyond"]


@dataclass(frozen=True)
class Limit:
    """The range of a term of `detector_free`, and what it means to leave it."""

    low: float
    high: float
    meaning: str

    def is_beyond(self, value: float) -> bool:
        """Whether the value is outside the range."""
        return not self.low <= value <= self.high


LIMITS = {
    "student_mass": Limit(
        0.5,
        math.inf,
        "the student's heatmaps die out beside the teacher's, or the teacher finds nothing. Use a longer "
        "method.burn_in and method.ramp_up, or smaller weights of the unlabelled losses",
    ),
    "people_inflation": Limit(
        0.0,
        1.3,
        "more people are kept per unlabelled photo than labelled photos show, as when parts of people teach "
        "parts of people. Raise method.gates.min_confidence and method.gates.agreement, or lower "
        "method.instance_weight, unless your unlabelled photos do show more people",
    ),
}
"""Terms with a range (measured on drawn scenes: people inflate to 1.7 times as many without the gates)."""


def is_untrained(net: Mapping[str, Any]) -> bool:
    """Whether a network begins with random weights, by its plain settings."""
    is_pretrained = net.get("pretrained") and net.get("backbone", {}).get("name") != "light"
    return not (is_pretrained or net.get("weights") or net.get("start_from"))


def teach_later(options: OptionNames, net: Mapping[str, Any]) -> str:
    """How a teacher learns more before it teaches: what its run, whose network is `net`, does not do yet."""
    pretrained = ", pretrained weights" if is_untrained(net) else ""
    return f"let the teacher learn more first (more labels or steps{pretrained}, a larger {options.teacher})"


def steady_teacher(options: OptionNames | None, method: Mapping[str, Any]) -> str:
    """What to do about a teacher that collapses, in the settings of its method, given as plain values."""
    is_young = method.get("teacher", {}).get("name", "ema") != "ema"
    ways = f"Use {'method.teacher.name=ema, ' if is_young else ''}a weaker weak view"
    return ways if options is None else f"{ways}, a larger {options.teacher} or a smaller {options.weight}"


class TrustWatch:
    """Detects that no pseudo label has counted so far in any report."""

    def __init__(self) -> None:
        self.most_trusted = 0.0
        self.highest_peak = 0.0
        self.reports = 0
        self.has_told = False

    @property
    def finds_nothing(self) -> bool:
        """Whether there were pseudo labels, and none of them counted."""
        return self.reports > 0 and self.most_trusted == 0

    def update(self, means: Mapping[str, float], teachers: Iterable[str], *, is_settled: bool) -> bool:
        """Take the mean terms of a report and the marks of its teachers.

        True once, if no label has counted by the first settled report.
        """
        shares = [means[f"trusted_share{mark}"] for mark in teachers if f"trusted_share{mark}" in means]
        peaks = [means[f"teacher_peak{mark}"] for mark in teachers if f"teacher_peak{mark}" in means]
        self.reports += bool(shares)
        self.most_trusted = max([self.most_trusted, *shares])
        self.highest_peak = max([self.highest_peak, *peaks])
        is_first = is_settled and self.finds_nothing and not self.has_told
        self.has_told |= is_first
        return is_first

    def sentence(self, what: str, options: OptionNames, net: Mapping[str, Any]) -> str:
        """The warning, with the method's options to change; `net` is the network's plain settings."""
        return (
            f"warning: {what} no pseudo label has counted (trusted_share 0), so the network learns nothing "
            f"from the unlabelled data. The teacher's mean peak was {self.highest_peak:.2g} at best "
            f"(teacher_peak): lower {options.trust} below that, or {teach_later(options, net)}."
        )

    def state_dict(self) -> dict[str, Any]:
        """The state to save."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; a run that an older version saved has no such state."""
        vars(self).update(state)


def fallen_score(
    history: Sequence[Mapping[str, Any]], metric: str, *, times_seen: float, cure: str, net: Mapping[str, Any]
) -> str | None:
    """A warning at the scoring at which the first network's score has fallen from its best; otherwise None.

    history: every scoring so far, `step` and `scores` by network. times_seen: how often the network has seen
    each labelled sample. cure: the setting of the labelled views. net: the network's plain settings.
    """
    network = next(iter(history[-1]["scores"]))
    values = [row["scores"][network].get(metric, math.nan) for row in history]
    best = max(range(len(values)), key=values.__getitem__)
    after = values[best + 1 :]
    has_fallen = all(value < FALL_SHARE * values[best] for value in after[-FALL_SCORINGS:])
    is_new = len(after) == FALL_SCORINGS or not all(
        value < FALL_SHARE * values[best] for value in after[-FALL_SCORINGS - 1 : -1]
    )
    if len(after) < FALL_SCORINGS or not has_fallen or not is_new:
        return None
    best_step = history[best]["step"]
    ways = ["Take fewer steps", "label more", f"draw the labelled views more widely ({cure})"]
    if is_untrained(net):
        ways.append("start from trained weights (net.pretrained or net.start_from)")
    return (
        f"warning: {metric} of {network} has fallen from {values[best]:.3f} (step {best_step:,}) to "
        f"{values[-1]:.3f}, and each labelled sample was seen {times_seen:.0f} times so far, so the network "
        f"may learn them by heart. {', '.join(ways[:-1])}, or {ways[-1]}."
    )
