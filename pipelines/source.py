"""Which samples of a folder of shards a loader reads.

The order of the samples defines the split: the first N (or N random ones by a seed) are labelled, and the
others or all are unlabelled. Of whole photos, a share can be labelled instead, chosen by their names. Shards
are never rewritten; instead, the run's folder gets DALI index files that list the chosen samples.
"""

import hashlib
import io
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from pathlib import Path
from typing import Literal, NamedTuple

import fsspec
import numpy as np
from PIL import Image

from semipose.configs.load import InputError
from semipose.pipelines.shards import Shards, open_shards
from semipose.pipelines.stream import BrokenStreamError, Payloads, read_tar
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.sharding.samples.ignored_area import decode_ignored
from semipose.sharding.samples.sample import Poses
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.sharding.store.index import read_index, read_members, subset_index
from semipose.sharding.store.manifest import GROUND_TRUTH_NAME, Manifest


class TarPart(NamedTuple):
    """Some samples of one tar."""

    tar: str
    idx: Path
    """DALI's index of the whole tar."""
    in_tar: list[int]
    """Their indices in the tar, ascending."""
    in_split: list[int]
    """Their indices in the split."""
    sha256: str
    """Hash of the whole tar."""


@dataclass(frozen=True)
class Split:
    """The chosen samples of one folder of shards, in reading order."""

    shards: Shards
    tars: tuple[str, ...]
    """The shards that hold chosen samples: paths or addresses."""
    indices: tuple[Path, ...]
    """DALI's index of each, which lists only the chosen samples."""
    ordinals: tuple[int, ...]
    """Indices of the chosen samples in the whole folder, ascending."""

    @property
    def root(self) -> str:
        """The address of the folder of shards."""
        return self.shards.root

    @property
    def manifest(self) -> Manifest:
        """The manifest of the whole folder."""
        return self.shards.manifest

    @property
    def num_samples(self) -> int:
        """The number of chosen samples."""
        return len(self.ordinals)

    @property
    def skeleton(self) -> Skeleton:
        """The keypoint set."""
        return self.manifest.skeleton

    @cached_property
    def ground_truth(self) -> GroundTruth:
        """The people of the whole folder, read once; those of the samples come first, in their order.

        If the samples are boxes of a detector, they are under `detections`, in their order, instead. Raises
        InputError if the file is not a valid ground truth.
        """
        return GroundTruth.load(self.shards.folder / GROUND_TRUTH_NAME, self.skeleton)

    @property
    def annotation_ids(self) -> tuple[int, ...]:
        """Ids of the chosen annotations, or of the chosen whole photos, in reading order."""
        ids = self.shards.listed.ids
        return tuple(ids[ordinal] for ordinal in self.ordinals)

    @property
    def annotated(self) -> list[int]:
        """Indices in the whole folder, ascending, of the chosen samples with an annotated keypoint.

        Boxes of a detector have none, and neither have people whose keypoints all have v = 0. A whole photo
        has one if any of its people has.
        """
        are_annotated = self.shards.listed.are_annotated
        return [ordinal for ordinal in self.ordinals if are_annotated[ordinal]]

    @property
    def ids_sha256(self) -> str:
        """Hash of the chosen `annotation_ids`, one per line, for the card of a run."""
        return hashlib.sha256("\n".join(map(str, self.annotation_ids)).encode()).hexdigest()

    @property
    def selection_sha256(self) -> str:
        """Hash of the shards' contents and of the chosen indices: equal for the same samples in one order."""
        contents = [shard.sha256 for shard in self.manifest.shards]
        return hashlib.sha256(json.dumps([contents, self.ordinals]).encode()).hexdigest()

    @property
    def content_sha256(self) -> str:
        """Hash of the chosen samples and of their ground truth."""
        content = [self.selection_sha256, self.manifest.ground_truth_sha256]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def parts(self, chosen: Sequence[int]) -> Iterator[TarPart]:
        """The tars of some of the chosen samples, one by one; `chosen`: ascending indices in the split."""
        ends = list(accumulate(shard.samples for shard in self.manifest.shards))
        for number, group in groupby(chosen, lambda index: bisect_right(ends, self.ordinals[index])):
            in_split = list(group)
            shard = self.manifest.shards[number]
            first = ends[number] - shard.samples
            in_tar = [self.ordinals[index] - first for index in in_split]
            idx = self.shards.folder / shard.idx_file
            yield TarPart(self.shards.tars[number], idx, in_tar, in_split, shard.sha256)

    def jpegs(self, chosen: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """The stored JPEG of some of the chosen samples; `chosen`: ascending indices in the split.

        Raises OSError or BrokenStreamError if the shards can no longer be read.
        """
        for part in self.parts(chosen):
            split_index = dict(zip(part.in_tar, part.in_split, strict=True))
            yield from ((split_index[index], payloads["jpg"]) for index, payloads in self._read(part))

    def poses(self) -> list[Poses]:
        """The pose records of the chosen samples, in their order.

        Raises InputError, OSError or BrokenStreamError if the shards can no longer be read.
        """
        decode, num_keypoints = self.manifest.sample_kind.decode_pose, self.skeleton.num_keypoints
        return [
            decode(payloads["pose"], num_keypoints)
            for part in self.parts(range(self.num_samples))
            for _, payloads in self._read(part)
        ]

    def find_fault(self, message: str) -> InputError | None:
        """Return what is wrong with which sample: the one that DALI's message names, or the first bad one."""
        cure = f"the shards in {self.root} are damaged: copy them again or build them again"
        named = re.search(r"([^\s:/]+\.tar):\d+:([^\s:]+)", message)
        if named:
            return InputError(f"{self.root}/{named[1]}: {named[2]} cannot be decoded; {cure}")
        for part in self.parts(range(self.num_samples)):
            samples = read_index(part.idx)
            try:
                for index, payloads in self._read(part):
                    fault = self.damage(payloads)
                    if fault:
                        member = samples[index][0].member
                        return InputError(f"{part.tar}: {member} cannot be decoded ({fault}); {cure}")
            except (BrokenStreamError, OSError) as error:
                return InputError(f"{part.tar}: {error}; {cure}")
        return None

    def damage(self, payloads: Payloads) -> str | None:
        """Return what is wrong with those members of a sample that were read, decoded strictly."""
        try:
            Image.open(io.BytesIO(payloads["jpg"])).load()
            if "pose" in payloads:
                self.manifest.sample_kind.decode_pose(payloads["pose"], self.skeleton.num_keypoints)
            if "mask" in payloads:
                decode_ignored(payloads["mask"])
        except (OSError, ValueError, OverflowError, SyntaxError) as error:
            return str(error)
        return None

    def _read(self, part: TarPart) -> Iterator[tuple[int, Payloads]]:
        """Yield the samples of one tar, each with its index there and the bytes that are decoded."""
        samples = read_index(part.idx)
        extensions = [extension for extension in self.manifest.sample_kind.members if extension != "json"]
        if self.shards.is_streamed:
            yield from read_tar(part.tar, samples, part.in_tar, extensions)
            return
        with fsspec.open(part.tar, "rb") as file:
            for index in part.in_tar:
                yield index, read_members(file, samples[index], extensions)


def open_split(root: str | Path, kind: Literal["person", "image"] = "person") -> Split:
    """Open a folder of shards, local or remote, and choose every sample.

    root: a path, `s3://...`, `gs://...`, `http(s)://...`, or `pipe:COMMAND`, which prints the file `{file}`.
    kind: what a sample must be. `open_shards` says what is compared with the manifest. Raises InputError.
    """
    shards = open_shards(root)
    manifest = shards.manifest
    if manifest.kind != kind:
        wrong, cure = {
            "person": ("whole photos, and this needs single people", "kind=person"),
            "image": ("single people, and this needs whole photos", "kind=image crop.name=none"),
        }[kind]
        raise InputError(f"{root}: the samples are {wrong}: build the shards again with {cure}")
    if not manifest.num_samples:
        raise InputError(f"{root}: the shards hold no sample: build them again from another source")
    return _everything(shards)


def _everything(shards: Shards) -> Split:
    """All samples of a folder of shards."""
    indices = tuple(shards.folder / shard.idx_file for shard in shards.manifest.shards)
    return Split(shards, shards.tars, indices, tuple(range(shards.manifest.num_samples)))


def labelled_split(
    whole: Split, labelled: int | Literal["all"], *, subset_seed: int | None = None, index_dir: Path
) -> Split:
    """Choose the labelled samples: the first `labelled` (the published protocol), or as many at random.

    Samples without an annotated keypoint have no label and are skipped (COCO has none). subset_seed: None for
    the first ones, otherwise the seed of the choice. Raises InputError if there are fewer.
    """
    annotated, total = _require_annotated(whole), whole.num_samples
    if labelled == "all":
        labelled = len(annotated)
    if labelled < 1:
        raise InputError(f"data.labelled = {labelled}: at least one sample must be labelled")
    if labelled > len(annotated):
        counted = "" if len(annotated) == total else f", {len(annotated)} of them with an annotated keypoint"
        raise InputError(
            f"data.labelled = {labelled}, but {whole.root} holds {total} samples{counted}: "
            "lower data.labelled or build the shards from more annotations"
        )
    if labelled == total:
        return whole
    ordinals = annotated[:labelled]
    if subset_seed is not None:
        drawn = np.random.default_rng(subset_seed).permutation(len(annotated))[:labelled]
        ordinals = sorted(annotated[index] for index in drawn)
    return _choose(whole, ordinals, "labelled", index_dir)


def labelled_share(whole: Split, share: float, *, fold: int, index_dir: Path) -> Split:
    """Choose a share of the whole photos with annotated people as the labelled ones.

    The photos are ranked by the hash of the fold and of their file name, so the choice depends neither on
    their order nor on other photos, and 1 % is contained in the 2 % of the same fold. Raises InputError for
    samples that are single people, and if the share is below one photo.
    """
    if whole.manifest.kind != "image":
        raise InputError(
            f"{whole.root}: the samples are single people, and a labelled share counts whole photos: set "
            "data.labelled to a number of people"
        )
    annotated = _require_annotated(whole)
    count = round(share * len(annotated))
    if not 1 <= count <= len(annotated):
        raise InputError(
            f"labelled_share = {share} is {count} of the {len(annotated)} photos with annotated people of "
            f"{whole.root}: choose a share above 0 and up to 1 that is at least one photo"
        )
    names = whole.shards.listed.file_names

    def rank(ordinal: int) -> tuple[bytes, int]:
        return hashlib.sha256(f"{fold}/{names[ordinal]}".encode()).digest(), ordinal

    return _choose(whole, sorted(sorted(annotated, key=rank)[:count]), "labelled", index_dir)


def _require_annotated(whole: Split) -> list[int]:
    """The ordinals of the samples that can be labelled. Raises InputError if there is none."""
    annotated = whole.annotated
    if not annotated:
        raise InputError(
            f"{whole.root}: none of the {whole.num_samples} samples has an annotated keypoint: set "
            "data.train to shards of annotated people; boxes of a detector and unlabelled photos belong in "
            "data.unlabelled"
        )
    return annotated


def unlabelled_split(
    whole: Split, *, without: Split | None = None, only_annotated: bool = False, index_dir: Path
) -> Split:
    """Choose the unlabelled samples: all (the published protocol), or all `without` the labelled ones.

    only_annotated: leave out photos without annotated people, which is itself a weak label. Raises InputError
    if none is left.
    """
    if without is None and not only_annotated:
        return whole
    if without is not None and without.root != whole.root:
        raise ValueError(
            f"{without.root} is not {whole.root}: only samples of the same folder can be left out"
        )
    left_out = set(without.ordinals if without else ())
    candidates = whole.annotated if only_annotated else whole.ordinals
    ordinals = [ordinal for ordinal in candidates if ordinal not in left_out]
    if not ordinals:
        raise InputError(
            f"all {len(candidates)} samples of {whole.root} are labelled, so none is left: lower "
            "data.labelled or set data.unlabelled_includes_labelled to true"
        )
    return _choose(whole, ordinals, "unlabelled", index_dir)


def hidden_split(unlabelled: Split, labelled: Split, count: int, *, index_dir: Path) -> Split | None:
    """Choose at most `count` unlabelled samples whose annotations training never reads, spread evenly.

    None if only labelled samples have an annotated keypoint, or if the unlabelled ones have other keypoints.
    Of streamed shards, which are read from their start, only one tar is read.
    """
    read_in_training = set(labelled.ordinals) if labelled.root == unlabelled.root else set()
    candidates = [ordinal for ordinal in unlabelled.annotated if ordinal not in read_in_training]
    if not candidates or not count or unlabelled.skeleton != labelled.skeleton:
        return None
    if unlabelled.shards.is_streamed:
        ends = list(accumulate(shard.samples for shard in unlabelled.manifest.shards))
        end = ends[bisect_right(ends, candidates[0])]
        candidates = [ordinal for ordinal in candidates if ordinal < end]
    count = min(count, len(candidates))
    ordinals = [candidates[index * len(candidates) // count] for index in range(count)]
    return _choose(_everything(unlabelled.shards), ordinals, "hidden", index_dir)


def _choose(whole: Split, ordinals: Sequence[int], role: str, index_dir: Path) -> Split:
    """Write the index files of some samples (ascending) of a folder; shards without any are left out."""
    index_dir.mkdir(parents=True, exist_ok=True)
    wanted = np.asarray(ordinals)
    tars, indices, start = [], [], 0
    for shard, tar, index in zip(whole.manifest.shards, whole.tars, whole.indices, strict=True):
        inside = wanted[(wanted >= start) & (wanted < start + shard.samples)] - start
        start += shard.samples
        if len(inside):
            tars.append(tar)
            indices.append(subset_index(index, index_dir / f"{role}-{index.name}", inside.tolist()))
    return Split(whole.shards, tuple(tars), tuple(indices), tuple(map(int, ordinals)))
