"""The random numbers of a method: those that differ between ranks, and those that all ranks share."""

import random

import torch


class RandomState:
    """Two streams of random numbers, both seeded by the run's seed.

    What happens to images (masks, patches, partners, alpha) differs between ranks and is drawn on the device.
    Which branch to take is decided on the host, in the same way on every rank, so that no rank waits for
    another.
    """

    def __init__(self, seed: int, rank: int, device: torch.device) -> None:
        self.generator = torch.Generator(device).manual_seed(2 * (seed * 1009 + rank))
        self.seed = seed
        self.decided = 0

    def one_of(self, count: int) -> int:
        """A uniform index below `count`, the same on every rank."""
        self.decided += 1
        return random.Random(f"{self.seed} {self.decided}").randrange(count)

    def state(self) -> dict[str, torch.Tensor]:
        """The state of both streams."""
        return {"device": self.generator.get_state(), "decided": torch.tensor(self.decided)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what `state` returned."""
        self.generator.set_state(state["device"])
        self.decided = int(state["decided"])
