"""Streamed samples as the batches that DALI's own reader would give: the same samples in the same order."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np

from configs.load import InputError
from pipelines.source import Split, TarPart, damage
from pipelines.stream import BrokenStreamError, Payloads, read_tar
from sharding.store.index import read_index

Batch = list[list[np.ndarray]]


class Feed:
    """Batches of a rank's samples for DALI's `external_source`, read one ahead in a thread.

    part: the rank's places in the split. order: gives the order, as places in `part`, pass after pass (see
    `graph.read_order`). A tar is read once a pass, from its start; what has come but is not yet asked for is
    held, as in the buffer of DALI's reader.
    A sample that cannot be had is lost: it is left out from then on, with a warning; one more than
    `bad_samples` is an InputError.
    """

    def __init__(
        self,
        split: Split,
        part: range,
        order: Callable[[], Iterator[int]],
        *,
        batch_size: int,
        endless: bool = True,
        bad_samples: int = 0,
    ) -> None:
        self._split, self._part, self._order = split, part, order
        self._batch_size, self._endless, self._bad_samples = batch_size, endless, bad_samples
        self.lost: dict[int, int] = {}
        """The pass from which on each lost sample, by its place in the split, is left out."""
        self._compared: set[str] = set()
        """The tars that were read to their end and agreed with the manifest."""
        self._pool: ThreadPoolExecutor | None = None
        self._batches: Iterator[Batch] = iter(())
        self._pending: tuple[int, Future[Batch | None]] | None = None

    def source(self, extensions: Sequence[str]) -> Callable[[Any], Batch]:
        """Return what `external_source` calls: from the number of a batch to the members of its samples.

        It goes on from any number, so that a pipeline built from a checkpoint gets the batches after it.
        """

        def batch(info: Any) -> Batch:
            return self._take(info.iteration, extensions)

        return batch

    def close(self) -> None:
        """Stop reading; the next call of the source starts again."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = self._pending = None
        self._batches = iter(())  # closes the stream that the generator held open

    def _take(self, number: int, extensions: Sequence[str]) -> Batch:
        """Return batch `number`, and have the next one read. StopIteration: a single pass is over."""
        if self._pending is None or self._pending[0] != number:
            self.close()
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
            self._batches = self._read_batches(number, extensions)
            self._pending = (number, self._pool.submit(next, self._batches, None))
        assert self._pool is not None
        future, self._pending = self._pending[1], None
        batch = future.result()
        if batch is None:
            raise StopIteration
        self._pending = (number + 1, self._pool.submit(next, self._batches, None))
        return batch

    def _read_batches(self, first: int, extensions: Sequence[str]) -> Iterator[Batch]:
        """Yield the batches from number `first` on; the last one of a single pass may be short."""
        samples = self._read_samples(first * self._batch_size, extensions)
        while batch := list(islice(samples, self._batch_size)):
            yield [[np.frombuffer(sample[ext], np.uint8) for sample in batch] for ext in extensions]

    def _read_samples(self, skip: int, extensions: Sequence[str]) -> Iterator[Payloads]:
        """Yield the samples in order, without the first `skip`, of which nothing is read."""
        order = self._order()
        for number in count() if self._endless else range(1):
            places = [self._part[place] for place in islice(order, len(self._part))]
            asked = [place for place in places if self.lost.get(place, number + 1) > number]
            if not asked:
                raise InputError(f"{self._split.root}: every sample of the stream is lost")
            yield from self._read_pass(number, asked[skip:], extensions)
            skip = max(0, skip - len(asked))

    def _read_pass(self, number: int, asked: Sequence[int], extensions: Sequence[str]) -> Iterator[Payloads]:
        """Yield the samples asked for, in that order; those that prove to be lost are left out."""
        held: dict[int, Payloads | None] = {}
        arriving = self._arrivals(number, sorted(asked), extensions)
        for place in asked:
            while place not in held:
                come, payloads = next(arriving)
                held[come] = payloads
            payloads = held.pop(place)
            if place == asked[-1]:
                held |= arriving  # no sample is left, but the end of the last tar to compare
            if payloads is not None:
                yield payloads

    def _arrivals(
        self, number: int, places: Sequence[int], extensions: Sequence[str]
    ) -> Iterator[tuple[int, Payloads | None]]:
        """Yield samples as they come, tar by tar, each with its place; None for a lost one."""
        for part in self._split.parts(places):
            samples = read_index(part.idx)
            due = dict(zip(part.in_tar, part.in_split, strict=True))
            is_due = part.tar not in self._compared or part.in_tar[-1] == len(samples) - 1
            compare = partial(self._compare, part) if is_due else None
            try:
                for in_tar, payloads in read_tar(part.tar, samples, part.in_tar, extensions, compare):
                    place = due.pop(in_tar)
                    fault = self._bad_samples and damage(payloads, self._split.skeleton.num_keypoints)
                    if fault:
                        member = samples[in_tar][0].member
                        self._lose({place: number}, part, f"{member} cannot be decoded ({fault})")
                    yield place, None if fault else payloads
            except BrokenStreamError as error:
                lost = dict.fromkeys(due.values(), number)
                if (
                    not due
                ):  # the tar proved to be altered at its end: what was given of it stays in this pass
                    lost = dict.fromkeys(set(part.in_split) - self.lost.keys(), number + 1)
                self._lose(lost, part, str(error))
                yield from ((place, None) for place in due.values())

    def _compare(self, part: TarPart, sha256: str) -> None:
        """Raise BrokenStreamError where a tar is not the manifest's and no lost sample explains that."""
        is_known = any(part.tar == each.tar for each in self._split.parts(sorted(self.lost)))
        if sha256 != part.sha256 and not is_known:
            raise BrokenStreamError("its bytes are not those of the manifest (by their SHA-256)")
        self._compared.add(part.tar)

    def _lose(self, places: dict[int, int], part: TarPart, reason: str) -> None:
        """Give samples up, each from a pass on, with a warning, or stop."""
        self.lost = self.lost | places  # anew: another thread may be saving the old
        what = f"{part.tar}: {reason}: {len(places)} lost"
        if len(self.lost) > self._bad_samples:
            raise InputError(
                f"{what}, {len(self.lost)} in all where loader.bad_samples = {self._bad_samples}: correct "
                "the shard or its connection, or allow more"
            )
        warnings.warn(f"{what}, {len(self.lost)} in all of {self._bad_samples} allowed", stacklevel=2)
