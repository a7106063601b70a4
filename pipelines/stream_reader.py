"""Reads streamed samples into the batches that DALI's own reader would give, in the same order."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np

from semipose.configs.load import InputError
from semipose.pipelines.source import Split, TarPart
from semipose.pipelines.stream import BrokenStreamError, Payloads, read_tar
from semipose.sharding.store.index import read_index

Batch = list[list[np.ndarray]]


class StreamReader:
    """Batches of a rank's samples for DALI's `external_source`, read one batch ahead in a thread.

    part: the rank's indices in the split. order: yields the order, as indices in `part`, pass after pass (see
    `graph.read_order`). A tar is read once per pass, from its start; samples that arrive before they are due
    are kept, as in the buffer of DALI's reader. A sample that cannot be read is lost: it is left out from
    then on, with a warning; more than `bad_samples` of them raise InputError.
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
        """For each lost sample, by its index in the split, the first pass that leaves it out."""
        self._compared: set[str] = set()
        """The tars that were read to their end and matched the manifest."""
        self._pool: ThreadPoolExecutor | None = None
        self._batches: Iterator[Batch] = iter(())
        self._pending: tuple[int, Future[Batch | None]] | None = None

    def source(self, extensions: Sequence[str]) -> Callable[[Any], Batch]:
        """Return the function for `external_source`, from a batch number to the members of its samples.

        It can start at any number, so that a pipeline that is built from a checkpoint gets the batches after
        it.
        """

        def batch(info: Any) -> Batch:
            return self._take(info.iteration, extensions)

        return batch

    def close(self) -> None:
        """Stop reading; the next call of the source starts it again."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = self._pending = None
        self._batches = iter(())  # closes the stream of the generator

    def _take(self, number: int, extensions: Sequence[str]) -> Batch:
        """Return batch `number` and start to read the next. StopIteration ends a single pass."""
        if self._pending is None or self._pending[0] != number:
            self.close()
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="stream_reader")
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
        """Yield the batches from number `first` on; the last one of a single pass may be smaller."""
        samples = self._read_samples(first * self._batch_size, extensions)
        while batch := list(islice(samples, self._batch_size)):
            yield [[np.frombuffer(sample[ext], np.uint8) for sample in batch] for ext in extensions]

    def _read_samples(self, skip: int, extensions: Sequence[str]) -> Iterator[Payloads]:
        """Yield the samples in order, without the first `skip`, which are not read."""
        order = self._order()
        for pass_number in count() if self._endless else range(1):
            indices = [self._part[index] for index in islice(order, len(self._part))]
            due = [index for index in indices if self.lost.get(index, pass_number + 1) > pass_number]
            if not due:
                raise InputError(
                    f"{self._split.root}: every sample of the stream is lost: correct the shards or the "
                    "connection"
                )
            yield from self._read_pass(pass_number, due[skip:], extensions)
            skip = max(0, skip - len(due))

    def _read_pass(
        self, pass_number: int, due: Sequence[int], extensions: Sequence[str]
    ) -> Iterator[Payloads]:
        """Yield the samples at the indices `due`, in that order, without those that turn out to be lost."""
        held: dict[int, Payloads | None] = {}
        arriving = self._arrivals(pass_number, sorted(due), extensions)
        for index in due:
            while index not in held:
                arrived, payloads = next(arriving)
                held[arrived] = payloads
            payloads = held.pop(index)
            if index == due[-1]:
                held |= arriving  # no sample is left, but the end of the last tar must be compared
            if payloads is not None:
                yield payloads

    def _arrivals(
        self, pass_number: int, indices: Sequence[int], extensions: Sequence[str]
    ) -> Iterator[tuple[int, Payloads | None]]:
        """Yield samples as they arrive, tar by tar, each with its index; None for a lost one."""
        for part in self._split.parts(indices):
            samples = read_index(part.idx)
            due = dict(zip(part.in_tar, part.in_split, strict=True))
            is_due = part.tar not in self._compared or part.in_tar[-1] == len(samples) - 1
            compare = partial(self._compare, part) if is_due else None
            try:
                for in_tar, payloads in read_tar(part.tar, samples, part.in_tar, extensions, compare):
                    index = due.pop(in_tar)
                    fault = self._bad_samples and self._split.damage(payloads)
                    if fault:
                        member = samples[in_tar][0].member
                        self._lose({index: pass_number}, part, f"{member} cannot be decoded ({fault})")
                    yield index, None if fault else payloads
            except BrokenStreamError as error:
                lost = dict.fromkeys(due.values(), pass_number)
                if not due:  # altered, as its end shows: the samples that it gave stay in this pass
                    lost = dict.fromkeys(set(part.in_split) - self.lost.keys(), pass_number + 1)
                self._lose(lost, part, str(error))
                yield from ((index, None) for index in due.values())

    def _compare(self, part: TarPart, sha256: str) -> None:
        """Raise BrokenStreamError if a tar differs from the manifest and no lost sample explains that."""
        is_known = any(part.tar == lossy.tar for lossy in self._split.parts(sorted(self.lost)))
        if sha256 != part.sha256 and not is_known:
            raise BrokenStreamError("its SHA-256 is not that of the manifest")
        self._compared.add(part.tar)

    def _lose(self, samples: dict[int, int], part: TarPart, reason: str) -> None:
        """Give up samples, each from its pass on, with a warning, or stop."""
        self.lost = self.lost | samples  # a new dict, because another thread may be saving the old one
        what = f"{part.tar}: {reason}: {len(samples)} lost"
        if len(self.lost) > self._bad_samples:
            raise InputError(
                f"{what}, {len(self.lost)} in total, but loader.bad_samples = {self._bad_samples}: correct "
                "the shard or the connection, or allow more"
            )
        warnings.warn(f"{what}, {len(self.lost)} in total of {self._bad_samples} allowed", stacklevel=2)
