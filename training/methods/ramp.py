"""When the unlabelled losses of a method come in: a burn-in without them, then a rising weight."""

from typing import Annotated

from pydantic import Field

from semipose.configs.settings import settings
from semipose.training.methods.method import Progress


@settings
class RampSettings:
    """A burn-in on the labelled samples alone, and a linear rise of the unlabelled losses after it."""

    burn_in: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the run that trains on the labelled samples alone before the unlabelled ones are used."""
    ramp_up: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the run, after the burn-in, over which the weights of the unlabelled losses rise from zero."""

    def __post_init__(self) -> None:
        if self.burn_in + self.ramp_up > 1:
            raise ValueError(
                f"burn_in {self.burn_in} and ramp_up {self.ramp_up} are more than the whole run together: "
                "lower one of them"
            )

    def settled_from(self, total_steps: int) -> int:
        """The step from which the unlabelled losses have their full weights."""
        return round(self.burn_in * total_steps) + round(self.ramp_up * total_steps)

    def burn_in_steps(self, progress: Progress) -> int:
        """Number of steps that train on the labelled samples alone."""
        return round(self.burn_in * progress.total_steps)

    def ramp(self, progress: Progress) -> float:
        """Factor of the unlabelled losses in a step: 0 during the burn-in, then rising linearly to 1."""
        since = progress.step - self.burn_in_steps(progress)
        length = round(self.ramp_up * progress.total_steps)
        return 0.0 if since < 0 else min(1.0, (since + 1) / (length + 1))
