"""Collapse of a teacher: it teaches ever flatter heatmaps, and the student follows it down."""

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
