"""Which samples of a folder of shards a stream reads.

The order of the samples is the split: the first N (or a seeded random N) are labelled, the rest or all are
unlabelled. Shards are never rewritten; a run's folder gets DALI index files that list the chosen samples.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from configs.load import InputError
from sharding.index import read_index, subset_index
from sharding.manifest import Manifest, check_shards, read_manifest
from sharding.record import decode_pose
from sharding.skeleton import Skeleton


@dataclass(frozen=True)
class Split:
    """The chosen samples of one folder of shards, in reading order."""

    folder: Path
    manifest: Manifest
    tars: tuple[Path, ...]
    """The shards that hold a chosen sample."""
    indices: tuple[Path, ...]
    """DALI's index of each, listing the chosen samples only."""
    ordinals: tuple[int, ...]
    """Places of the chosen samples in the whole folder, rising."""

    @property
    def num_samples(self) -> int:
        """How many samples are chosen."""
        return len(self.ordinals)

    @property
    def skeleton(self) -> Skeleton:
        """The keypoint set."""
        return self.manifest.skeleton

    @cached_property
    def annotation_ids(self) -> tuple[int, ...]:
        """Ids of the chosen annotations, in reading order (one small read a sample)."""
        return tuple(int(json.loads(members["json"])["id"]) for _, members in self._members("json"))

    @property
    def ids_sha256(self) -> str:
        """Hash of the chosen annotations' ids, one a line: what a run's card states."""
        return hashlib.sha256("\n".join(map(str, self.annotation_ids)).encode()).hexdigest()

    @property
    def selection_sha256(self) -> str:
        """Hash of the shards' contents and of the chosen places: the same samples in the same order."""
        contents = [shard.sha256 for shard in self.manifest.shards]
        return hashlib.sha256(json.dumps([contents, self.ordinals]).encode()).hexdigest()

    def find_fault(self, message: str) -> InputError | None:
        """Return what is wrong with which sample: the one that DALI's message names, or found by reading."""
        cure = f"the shards in {self.folder} are damaged: copy them again or build them again"
        named = re.search(r"([^\s:/]+\.tar):\d+:([^\s:]+)", message)
        if named:
            return InputError(f"{self.folder / named[1]}: {named[2]} cannot be decoded; {cure}")
        for where, members in self._members("jpg", "pose"):
            try:
                Image.open(io.BytesIO(members["jpg"])).load()
                decode_pose(members["pose"], self.skeleton.num_keypoints)
            except (OSError, ValueError, SyntaxError) as error:
                return InputError(f"{where} cannot be decoded ({error}); {cure}")
        return None

    def _members(self, *extensions: str) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield, sample by sample, where it is (`tar: member`) and the payloads of some of its members."""
        for tar, index in zip(self.tars, self.indices, strict=True):
            with tar.open("rb") as file:
                for sample in read_index(index):
                    payloads = {}
                    for component in sample:
                        if component.extension in extensions:
                            file.seek(component.offset)
                            payloads[component.extension] = file.read(component.size)
                    yield f"{tar}: {sample[0].member}", payloads


def open_split(folder: Path, *, check_hashes: bool = True) -> Split:
    """Open a folder of shards and choose every sample.

    The folder is compared with its manifest: sizes and indices always, the hashes of the shards (about a
    second a GB) with `check_hashes`. Raises InputError.
    """
    manifest = read_manifest(folder)
    check_shards(folder, manifest, deep=check_hashes)
    if not manifest.num_samples:
        raise InputError(f"{folder}: the shards hold no sample; build them again from another source")
    return Split(
        folder=folder,
        manifest=manifest,
        tars=tuple(folder / shard.file for shard in manifest.shards),
        indices=tuple(folder / shard.idx_file for shard in manifest.shards),
        ordinals=tuple(range(manifest.num_samples)),
    )


def labelled_split(
    whole: Split, labelled: int | Literal["all"], *, subset_seed: int | None = None, index_dir: Path
) -> Split:
    """Choose the labelled samples: the first `labelled` (the published protocol), or as many at random.

    subset_seed: None for the first ones, else the seed of the draw. Raises InputError where there are fewer.
    """
    total = whole.num_samples
    if labelled == "all":
        return whole
    if labelled < 1:
        raise InputError(f"labelled = {labelled}: at least one sample must be labelled")
    if labelled > total:
        raise InputError(
            f"labelled = {labelled}, but {whole.folder} holds {total} samples: "
            "lower `labelled` or build the shards from more annotations"
        )
    places: Sequence[int] = range(labelled)
    if subset_seed is not None:
        places = sorted(np.random.default_rng(subset_seed).permutation(total)[:labelled].tolist())
    return _choose(whole, places, "labelled", index_dir)


def unlabelled_split(whole: Split, *, without: Split | None = None, index_dir: Path) -> Split:
    """Choose the unlabelled samples: all (the published protocol), or all `without` the labelled ones.

    Raises InputError where none is left.
    """
    if without is None:
        return whole
    if without.folder != whole.folder:
        raise ValueError(
            f"{without.folder} is not {whole.folder}: only a folder's own samples can be left out"
        )
    left_out = set(without.ordinals)
    places = [place for place in whole.ordinals if place not in left_out]
    if not places:
        raise InputError(
            f"all {whole.num_samples} samples of {whole.folder} are labelled: none is left; "
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
    return Split(whole.folder, whole.manifest, tuple(tars), tuple(indices), tuple(map(int, places)))
