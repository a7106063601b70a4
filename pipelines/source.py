"""Which samples of a folder of shards a loader reads.

The order of the samples is the split: the first N (or a seeded random N) are labelled, the rest or all are
unlabelled. Shards are never rewritten; a run's folder gets DALI index files that list the chosen samples.
"""

import hashlib
import io
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import fsspec
import numpy as np
from PIL import Image

from configs.load import InputError
from pipelines.shards import Shards, open_shards
from pipelines.stream import BrokenStreamError, Payloads, read_tar
from sharding.annotations.record import decode_pose
from sharding.annotations.skeleton import Skeleton
from sharding.check.truth_check import read_truth
from sharding.store.index import read_index, subset_index
from sharding.store.manifest import GROUND_TRUTH_NAME, Manifest


class TarPart(NamedTuple):
    """Some samples of one tar."""

    tar: str
    idx: Path
    """DALI's index of the whole tar."""
    in_tar: list[int]
    """Their places in the tar, rising."""
    in_split: list[int]
    """Their places in the split."""
    sha256: str
    """Hash of the whole tar."""


@dataclass(frozen=True)
class Split:
    """The chosen samples of one folder of shards, in reading order."""

    shards: Shards
    tars: tuple[str, ...]
    """The shards that hold a chosen sample: paths or addresses."""
    indices: tuple[Path, ...]
    """DALI's index of each, listing the chosen samples only."""
    ordinals: tuple[int, ...]
    """Places of the chosen samples in the whole folder, rising."""

    @property
    def root(self) -> str:
        """Where the folder of shards lives."""
        return self.shards.root

    @property
    def manifest(self) -> Manifest:
        """The card of the whole folder."""
        return self.shards.manifest

    @property
    def num_samples(self) -> int:
        """How many samples are chosen."""
        return len(self.ordinals)

    @property
    def skeleton(self) -> Skeleton:
        """The keypoint set."""
        return self.manifest.skeleton

    def ground_truth(self) -> dict[str, Any]:
        """The persons of the whole folder in COCO form, those of the samples first, in their order.

        Where the samples are a detector's boxes, they are under `detections`, in their order, instead. Raises
        InputError for a file that is no sound ground truth.
        """
        path = self.shards.folder / GROUND_TRUTH_NAME
        read_truth(path, num_keypoints=self.skeleton.num_keypoints)
        return json.loads(path.read_bytes())

    @property
    def annotation_ids(self) -> tuple[int, ...]:
        """Ids of the chosen annotations, in reading order."""
        ids, _ = self.shards.people
        return tuple(ids[place] for place in self.ordinals)

    @property
    def marked(self) -> list[int]:
        """Places in the whole folder, rising, of the chosen samples that have a marked keypoint.

        A detector's boxes have none, and neither have people whose keypoints all have v = 0.
        """
        _, is_marked = self.shards.people
        return [place for place in self.ordinals if is_marked[place]]

    @property
    def ids_sha256(self) -> str:
        """Hash of the chosen annotations' ids, one a line: what a run's card states."""
        return hashlib.sha256("\n".join(map(str, self.annotation_ids)).encode()).hexdigest()

    @property
    def selection_sha256(self) -> str:
        """Hash of the shards' contents and of the chosen places: the same samples in the same order."""
        contents = [shard.sha256 for shard in self.manifest.shards]
        return hashlib.sha256(json.dumps([contents, self.ordinals]).encode()).hexdigest()

    @property
    def content_sha256(self) -> str:
        """Hash of the chosen samples and of the ground truth that they are scored by."""
        content = [self.selection_sha256, self.manifest.ground_truth_sha256]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def parts(self, chosen: Sequence[int]) -> Iterator[TarPart]:
        """Where some of the chosen samples lie, tar by tar; `chosen`: rising places in the split."""
        ends = list(accumulate(shard.samples for shard in self.manifest.shards))
        for number, group in groupby(chosen, lambda place: bisect_right(ends, self.ordinals[place])):
            places = list(group)
            shard = self.manifest.shards[number]
            first = ends[number] - shard.samples
            in_tar = [self.ordinals[place] - first for place in places]
            idx = self.shards.folder / shard.idx_file
            yield TarPart(self.shards.tars[number], idx, in_tar, places, shard.sha256)

    def find_fault(self, message: str) -> InputError | None:
        """Return what is wrong with which sample: the one that DALI's message names, or found by reading."""
        cure = f"the shards in {self.root} are damaged: copy them again or build them again"
        named = re.search(r"([^\s:/]+\.tar):\d+:([^\s:]+)", message)
        if named:
            return InputError(f"{self.root}/{named[1]}: {named[2]} cannot be decoded; {cure}")
        for part in self.parts(range(self.num_samples)):
            samples = read_index(part.idx)
            try:
                for place, payloads in self._read(part):
                    fault = damage(payloads, self.skeleton.num_keypoints)
                    if fault:
                        member = samples[place][0].member
                        return InputError(f"{part.tar}: {member} cannot be decoded ({fault}); {cure}")
            except (BrokenStreamError, OSError) as error:
                return InputError(f"{part.tar}: {error}; {cure}")
        return None

    def _read(self, part: TarPart) -> Iterator[tuple[int, Payloads]]:
        """Yield the samples of one tar, each with its place and the bytes that are decoded."""
        samples, extensions = read_index(part.idx), ("jpg", "pose")
        if self.shards.is_streamed:
            yield from read_tar(part.tar, samples, part.in_tar, extensions)
            return
        with fsspec.open(part.tar, "rb") as file:
            for place in part.in_tar:
                payloads = {}
                for component in samples[place]:
                    if component.extension in extensions:
                        file.seek(component.offset)
                        payloads[component.extension] = file.read(component.size)
                yield place, payloads


def damage(payloads: Payloads, num_keypoints: int) -> str | None:
    """Return what is wrong with the photo or the pose record of a sample, decoded strictly."""
    try:
        Image.open(io.BytesIO(payloads["jpg"])).load()
        decode_pose(payloads["pose"], num_keypoints)
    except (OSError, ValueError, SyntaxError) as error:
        return str(error)
    return None


def open_split(root: str | Path) -> Split:
    """Open a folder of shards, wherever it lives, and choose every sample.

    root: a path, `s3://...`, `gs://...`, `http(s)://...`, or `pipe:COMMAND` that prints the file `{file}`.
    What is compared with the manifest: see `open_shards`. Raises InputError.
    """
    shards = open_shards(root)
    manifest = shards.manifest
    if manifest.kind != "person":
        raise InputError(f"{root}: the samples are whole photos; build the shards again with kind=person")
    if not manifest.num_samples:
        raise InputError(f"{root}: the shards hold no sample; build them again from another source")
    indices = tuple(shards.folder / shard.idx_file for shard in manifest.shards)
    return Split(shards, shards.tars, indices, tuple(range(manifest.num_samples)))


def labelled_split(
    whole: Split, labelled: int | Literal["all"], *, subset_seed: int | None = None, index_dir: Path
) -> Split:
    """Choose the labelled samples: the first `labelled` (the published protocol), or as many at random.

    Samples without a marked keypoint have no label to learn from and are passed over (COCO has no such ones).
    subset_seed: None for the first ones, else the seed of the draw. Raises InputError where there are fewer.
    """
    marked, total = whole.marked, whole.num_samples
    if not marked:
        raise InputError(
            f"{whole.root}: none of the {total} samples has a marked keypoint; boxes of a detector and "
            "unlabelled photos belong in data.unlabelled: give shards of annotated people"
        )
    if labelled == "all":
        labelled = len(marked)
    if labelled < 1:
        raise InputError(f"labelled = {labelled}: at least one sample must be labelled")
    if labelled > len(marked):
        with_marks = "" if len(marked) == total else f", {len(marked)} of them with a marked keypoint"
        raise InputError(
            f"labelled = {labelled}, but {whole.root} holds {total} samples{with_marks}: "
            "lower `labelled` or build the shards from more annotations"
        )
    if labelled == total:
        return whole
    places = marked[:labelled]
    if subset_seed is not None:
        drawn = np.random.default_rng(subset_seed).permutation(len(marked))[:labelled]
        places = sorted(marked[index] for index in drawn)
    return _choose(whole, places, "labelled", index_dir)


def unlabelled_split(whole: Split, *, without: Split | None = None, index_dir: Path) -> Split:
    """Choose the unlabelled samples: all (the published protocol), or all `without` the labelled ones.

    Raises InputError where none is left.
    """
    if without is None:
        return whole
    if without.root != whole.root:
        raise ValueError(f"{without.root} is not {whole.root}: only a folder's own samples can be left out")
    left_out = set(without.ordinals)
    places = [place for place in whole.ordinals if place not in left_out]
    if not places:
        raise InputError(
            f"all {whole.num_samples} samples of {whole.root} are labelled: none is left; "
            "lower `labelled` or take the labelled ones as unlabelled too"
        )
    return _choose(whole, places, "unlabelled", index_dir)


def _choose(whole: Split, places: Sequence[int], role: str, index_dir: Path) -> Split:
    """Write the index files of some places (rising) of a whole folder; shards without any are left out."""
    index_dir.mkdir(parents=True, exist_ok=True)
    wanted = np.asarray(places)
    tars, indices, start = [], [], 0
    for shard, tar, index in zip(whole.manifest.shards, whole.tars, whole.indices, strict=True):
        inside = wanted[(wanted >= start) & (wanted < start + shard.samples)] - start
        start += shard.samples
        if len(inside):
            tars.append(tar)
            indices.append(subset_index(index, index_dir / f"{role}-{index.name}", inside.tolist()))
    return Split(whole.shards, tuple(tars), tuple(indices), tuple(map(int, places)))
