"""The random numbers of a method: what differs between ranks, and what all ranks decide alike."""

import torch


class Draws:
    """Two generators that follow from a seed.

    What happens to images (masks, patches, partners, alpha) differs between ranks and is drawn on the device;
    which branch to take is decided by the host, equally on every rank, so that no rank waits for another.
    """

    def __init__(self, seed: int, rank: int, device: torch.device) -> None:
        self.device = torch.Generator(device).manual_seed(2 * (seed * 1009 + rank))
        self.host = torch.Generator().manual_seed(2 * seed + 1)

    def one_of(self, count: int) -> int:
        """A place in a sequence of `count`, each equally likely."""
        return int(torch.randint(count, (), generator=self.host))

    def state(self) -> dict[str, torch.Tensor]:
        """The states of both generators."""
        return {"device": self.device.get_state(), "host": self.host.get_state()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what `state` gave."""
        self.device.set_state(state["device"].cpu())
        self.host.set_state(state["host"].cpu())
