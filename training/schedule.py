"""The learning rate, and what is due when: pure functions of the step, so a resumed run needs no state."""

import math
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from semipose.configs.settings import settings
from semipose.configs.words import listed

Steps = Annotated[int, Field(ge=0)]


@settings
class Milestones:
    """Constant, and multiplied by `factor` at each milestone (the published schedule, docs/methods.md 6)."""

    name: Literal["milestones"] = "milestones"
    at: tuple[float, ...] = (2 / 3, 5 / 6)
    """The milestones, as shares of the run (published: epochs 20 and 25 of 30)."""
    factor: Annotated[float, Field(gt=0)] = 0.1
    """The factor by which the rate is multiplied at each milestone."""
    warm_up_steps: Steps = 0
    """Steps over which the rate rises linearly from zero."""

    def __post_init__(self) -> None:
        if any(not 0 < share < 1 for share in self.at) or list(self.at) != sorted(self.at):
            raise ValueError("milestones must be shares of the run between 0 and 1, in ascending order")

    def scale(self, step: int, total_steps: int) -> float:
        """The factor of the base rate in step `step` (counted from 0) of `total_steps`."""
        passed = sum(step >= round(share * total_steps) for share in self.at)
        return warm_up(step, self.warm_up_steps) * self.factor**passed

    @property
    def words(self) -> str:
        """`times 0.1 at 0.667 and 0.833 of the schedule`."""
        falls = listed([f"{share:.3g}" for share in self.at])
        words = f"times {self.factor:g} at {falls} of the schedule" if falls else "constant"
        return words + _after_warm_up(self.warm_up_steps)


@settings
class Cosine:
    """Half a cosine from the base rate to zero, after a share of the run at the base rate."""

    name: Literal["cosine"] = "cosine"
    hold: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the run at the base rate, before the rate falls."""
    warm_up_steps: Steps = 0
    """Steps over which the rate rises linearly from zero."""

    def scale(self, step: int, total_steps: int) -> float:
        """The factor of the base rate in step `step` (counted from 0) of `total_steps`."""
        held = self.hold * total_steps
        angle = math.pi * max(0.0, step - held) / (total_steps - held)
        return warm_up(step, self.warm_up_steps) * 0.5 * (1 + math.cos(angle))

    @property
    def words(self) -> str:
        """`half a cosine to 0 from 0.8 of the schedule on`."""
        words = "half a cosine to 0" + (f" from {self.hold:g} of the schedule on" if self.hold else "")
        return words + _after_warm_up(self.warm_up_steps)


Schedule = Annotated[Milestones | Cosine, Field(discriminator="name")]


def is_due(step: int, every: int | float, total_steps: int) -> bool:
    """Whether something that recurs is due after step `step`, counted from 1.

    every: a number of steps, or (a float) a share of the run. With a share it is due 1 / every times, the
    last time after the last step; if one share is a multiple of another, so are its steps.
    """
    if isinstance(every, int):
        return step % every == 0
    # From the decimal number that was written, not from the binary one.
    length = Fraction(str(every)) * total_steps
    return step // length > (step - 1) // length


def warm_up(step: int, warm_up_steps: int) -> float:
    """1 after `warm_up_steps`; before that, rising linearly from 1 / (warm_up_steps + 1)."""
    return min(1.0, (step + 1) / (warm_up_steps + 1))


def _after_warm_up(steps: int) -> str:
    return f", after a warm-up of {steps:,} steps" if steps else ""
