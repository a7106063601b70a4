"""Teachers that teach nothing: one that collapses, and the student with it, and labels that never count."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from configs.settings import settings

SMOOTHING = 0.7


@settings
class CollapseSettings:
    """When the fall of a teacher is called a collapse."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """A teacher's smoothed peak, or share of active cells, below this share of its best has fallen."""
    reports: Annotated[int, Field(ge=1)] = 5
    """Reports in a row that it must stay fallen before the run warns."""


class CollapseWatch:
    """Notices when a value that ought to rise stays far below its best: the teacher sees nobody any more."""

    def __init__(self, *, share: float, reports: int) -> None:
        self.share = share
        self.reports = reports
        self.smoothed: float | None = None
        self.best = 0.0
        self.fallen = 0

    def update(self, value: float) -> bool:
        """Take the mean of a report; True once an episode, when the value has been fallen for long enough."""
        before = value if self.smoothed is None else self.smoothed
        self.smoothed = SMOOTHING * before + (1 - SMOOTHING) * value
        self.best = max(self.best, self.smoothed)
        self.fallen = self.fallen + 1 if self.smoothed < self.share * self.best else 0
        return self.fallen == self.reports

    def state_dict(self) -> dict[str, Any]:
        """Its memory."""
        return {"smoothed": self.smoothed, "best": self.best, "fallen": self.fallen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.smoothed, self.best, self.fallen = state["smoothed"], state["best"], state["fallen"]


class TrustWatch:
    """Notices that no pseudo label has counted so far, in any report."""

    def __init__(self) -> None:
        self.most_trusted = 0.0
        self.highest_peak = 0.0
        self.reports = 0
        self.has_told = False

    @property
    def finds_nothing(self) -> bool:
        """Whether there were pseudo labels, and none of them counted."""
        return self.reports > 0 and self.most_trusted == 0

    def update(self, means: Mapping[str, float], *, is_settled: bool) -> bool:
        """Take the mean terms of a report; True once, where none has counted by a settled report."""
        shares = [value for name, value in means.items() if name.startswith("trusted_share")]
        peaks = [value for name, value in means.items() if name.startswith("teacher_peak")]
        self.reports += bool(shares)
        self.most_trusted = max([self.most_trusted, *shares])
        self.highest_peak = max([self.highest_peak, *peaks])
        is_first = is_settled and self.finds_nothing and not self.has_told
        self.has_told |= is_first
        return is_first

    def sentence(self, what: str) -> str:
        """What to say of it, and what to change."""
        return (
            f"warning: {what} no pseudo label has counted (trusted_share 0), so the unlabelled people teach "
            f"nothing. The mean of the teacher's peaks was {self.highest_peak:.2g} at best (teacher_peak): "
            "lower method.min_peak below that, or let the teacher learn more first (more labelled people or "
            "steps, pretrained weights, a longer method.burn_in or method.teacher_share)."
        )

    def state_dict(self) -> dict[str, Any]:
        """Its memory."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; nothing is known of a run that an older version saved."""
        vars(self).update(state)
