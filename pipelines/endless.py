"""What every training stream promises, whichever way its batches come about."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from typing import Any, Generic, TypeVar

from configs.load import InputError
from pipelines.stream_reader import Feed

Batch = TypeVar("Batch")


class TrainLoader(ABC, Generic[Batch]):
    """Endless batches of one rank, resumable bit for bit.

    `state_dict()` belongs to the batch returned last, however many are prefetched. It carries a signature of
    everything that the stream depends on, so that the state of another one is refused.
    """

    cached_bytes = 0
    """Size of the decoded pixels that are kept."""

    def __init__(self, signature: dict[str, Any], feed: Feed | None) -> None:
        self._signature = signature
        self._feed = feed

    def __iter__(self) -> Iterator[Batch]:
        return self

    @abstractmethod
    def __next__(self) -> Batch:
        """Return the next batch. Raises InputError that names the sample where one cannot be decoded."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` of an equal stream goes on from: plain values and bytes."""
        lost = sorted(self._feed.lost.items()) if self._feed else []
        return {
            "signature": dict(self._signature),
            **self._position(),
            "lost": [list(pair) for pair in lost],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batch that `state` belongs to. Raises InputError where it is another stream's."""
        if changes := list(_changes(state["signature"], self._signature)):
            raise InputError(
                f"the saved stream of {self._signature['stream']} people is not this one "
                f"({', '.join(changes)}): resume with the shards, settings and machine that the run had, or "
                "start a new run"
            )
        self._go_on(state)

    @abstractmethod
    def _position(self) -> dict[str, Any]:
        """What a state holds beside the signature and the lost samples."""

    @abstractmethod
    def _go_on(self, state: dict[str, Any]) -> None:
        """Take the position and the lost samples of a state of this stream."""

    @property
    def num_lost(self) -> int:
        """How many samples a stream over http or a pipe has lost; each was named in a warning."""
        return len(self._feed.lost) if self._feed else 0

    @abstractmethod
    def close(self) -> None:
        """Stop the threads and free the memory; the next batch would start them again."""


def _changes(saved: dict[str, Any], own: dict[str, Any]) -> Iterator[str]:
    """Say in what two signatures differ: causes, without what merely follows from them."""
    follows = {"samples"}
    if saved["samples"] != own["samples"]:
        yield "it reads other samples of these shards, or the shards were built anew"
        follows.add("shuffle_buffer")  # no larger than the number of samples
    if ("cache" in saved) != ("cache" in own):
        yield f"its crops are {'now' if 'cache' in own else 'no longer'} kept in memory (data.cache)"
        follows |= saved.keys() ^ own.keys()
    yield from _values(saved, own, follows)


def _values(
    saved: dict[str, Any], own: dict[str, Any], follows: Collection[str] = (), within: str = ""
) -> Iterator[str]:
    """Say of each value but those in `follows` what it was and is, by its dotted key, where it differs."""
    for key in {**own, **saved}:
        was, now = saved.get(key), own.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _values(was, now, within=f"{within}{key}.")
        elif was != now and key not in follows:
            yield f"{within}{key} was {was} and is {now}"
