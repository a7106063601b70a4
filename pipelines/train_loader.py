"""The interface of every training stream, cached or not."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from typing import Any, Generic, TypeVar

from semipose.configs.load import InputError
from semipose.pipelines.stream_reader import StreamReader

Batch = TypeVar("Batch")


class TrainLoader(ABC, Generic[Batch]):
    """Endless batches of one rank, resumable bit for bit.

    `state_dict()` belongs to the last returned batch, however many are prefetched. It holds a signature of
    everything that the stream depends on, so that the state of a different stream is refused.
    """

    cached_bytes = 0
    """Size of the decoded pixels that are kept."""

    def __init__(self, signature: dict[str, Any], stream_reader: StreamReader | None) -> None:
        self._signature = signature
        self._stream_reader = stream_reader

    def __iter__(self) -> Iterator[Batch]:
        return self

    @abstractmethod
    def __next__(self) -> Batch:
        """Return the next batch. Raises InputError with the name of a sample that cannot be decoded."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which an equal stream can continue: plain values and bytes."""
        lost = sorted(self._stream_reader.lost.items()) if self._stream_reader else []
        return {
            "signature": dict(self._signature),
            **self._position(),
            "lost": [list(pair) for pair in lost],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batch of `state`. Raises InputError for the state of another stream."""
        if changes := list(_changes(state["signature"], self._signature)):
            raise InputError(
                f"the saved {self._signature['stream']} stream differs from this one "
                f"({', '.join(changes)}): resume with the shards, settings and machine that the run had, or "
                "start a new run"
            )
        self._resume(state)

    @abstractmethod
    def _position(self) -> dict[str, Any]:
        """The part of the state besides the signature and the lost samples."""

    @abstractmethod
    def _resume(self, state: dict[str, Any]) -> None:
        """Restore the position and the lost samples from a state of this stream."""

    @property
    def num_lost(self) -> int:
        """How many samples a stream over http or a pipe has lost; each was named in a warning."""
        return len(self._stream_reader.lost) if self._stream_reader else 0

    @abstractmethod
    def close(self) -> None:
        """Stop the threads and free the memory; the next batch would start them again."""


def _changes(saved: dict[str, Any], own: dict[str, Any]) -> Iterator[str]:
    """Describe how two signatures differ, without differences that merely follow from others."""
    follows = {"samples"}
    if saved["samples"] != own["samples"]:
        yield "it reads other samples of these shards, or the shards were built again"
        follows.add("shuffle_buffer")  # it is at most the number of samples
    if ("cache" in saved) != ("cache" in own):
        yield f"its crops are {'now' if 'cache' in own else 'no longer'} kept in memory (data.cache)"
        follows |= saved.keys() ^ own.keys()
    yield from _values(saved, own, follows)


def _values(
    saved: dict[str, Any], own: dict[str, Any], follows: Collection[str] = (), within: str = ""
) -> Iterator[str]:
    """Describe each value that differs, by its dotted key, except those in `follows`."""
    for key in {**own, **saved}:
        was, now = saved.get(key), own.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _values(was, now, within=f"{within}{key}.")
        elif was != now and key not in follows:
            yield f"{within}{key} was {was} and is {now}"
