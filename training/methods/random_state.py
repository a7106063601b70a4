"""The random numbers of a method: what differs between ranks, and what all ranks decide alike."""

import random

import torch


class RandomState:
    """Two streams of random numbers that follow from a seed.

    What happens to images (masks, patches, partners, alpha) differs between ranks and is drawn on the device;
    which branch to take is decided by the host, equally on every rank, so that no rank waits for another.
    """

    def __init__(self, seed: int, rank: int, device: torch.device) -> None:
        self.generator = torch.Generator(device).manual_seed(2 * (seed * 1009 + rank))
        self.seed = seed
        self.decided = 0

    def one_of(self, count: int) -> int:
        """A place in a sequence of `count`, each equally likely."""
        self.decided += 1
        return random.Random(f"{self.seed} {self.decided}").randrange(count)

    def state(self) -> dict[str, torch.Tensor]:
        """Where both streams stand."""
        return {"device": self.generator.get_state(), "decided": torch.tensor(self.decided)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what `state` gave."""
        self.generator.set_state(state["device"])
        self.decided = int(state["decided"])
