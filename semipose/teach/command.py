"""semipose teach TEACHER SHARDS OUTPUT [key=value ...]: people of shards, labelled by a model.

    semipose teach runs/big shards/my-train shards/my-taught
    semipose teach vitpose:usyd-community/vitpose-base-simple shards/my-train shards/my-taught
    semipose teach results.json shards/my-train shards/my-taught licence=apache-2.0

OUTPUT is a folder of shards with the same pictures, whose labels are the model's: `data.sources` of a run.
"""

import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import tee
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from semipose.configs.console import plain_console
from semipose.configs.load import InputError, exit_on_input_error, load, read_request
from semipose.sharding.annotations.flip_pairs import places_of
from semipose.sharding.annotations.record import Photo
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.sharding.samples.crop import move_keypoints
from semipose.sharding.samples.person import BOX_NUMBERS, decode_pose, encode_pose
from semipose.sharding.samples.sample import Sample, TarSample, encode_card, frame
from semipose.sharding.stopping import stoppable
from semipose.sharding.store.files import file_sha256, write_atomic
from semipose.sharding.store.identity import Identity
from semipose.sharding.store.index import Component, read_index
from semipose.sharding.store.journal import Journal
from semipose.sharding.store.manifest import (
    GROUND_TRUTH_NAME,
    Manifest,
    ShardEntry,
    TeacherCard,
    check_shards,
    read_manifest,
    write_manifest,
)
from semipose.sharding.store.output import check_name, make_output
from semipose.sharding.store.write import write_shards
from semipose.teach.settings import TeachSettings
from semipose.teach.teachers import StoredPerson, Teacher, load_teacher


def teach(by: str, shards: Path, output: Path, cfg: TeachSettings, console: Console) -> Manifest:
    """Write the people of `shards` to `output`, with the labels of a model; returns the new manifest.

    It continues after the last complete shard of an earlier command. Raises InputError for a teacher that
    cannot be used or knows none of the keypoints, for shards of whole photos, for damaged ones, and for an
    output that holds anything else.
    """
    check_name(output.name, console)
    manifest = read_manifest(shards)
    if manifest.kind != "person":
        raise InputError(f"{shards}: the samples are whole photos: build the shards again with kind=person")
    check_shards(shards, manifest)
    source = _Source(shards, manifest)
    teacher = load_teacher(by, manifest.skeleton, source.photos, cfg)
    order = order_of(teacher.names, manifest.skeleton, cfg.keypoints, by)
    labels = np.empty((0, manifest.skeleton.num_keypoints, 3))

    def write(journal: Journal) -> Manifest:
        nonlocal labels
        taught, labels = _write(journal, source, teacher, order, cfg, console)
        return taught

    taught, is_new = make_output(output, _identity(manifest, teacher, order, cfg), write, console)
    if is_new:
        _report(output, taught, labels, console)
    return taught


def order_of(
    known: Sequence[str], skeleton: Skeleton, chosen: Sequence[str] | None, by: str
) -> list[int | None]:
    """For each keypoint of the shards its place among those that the teacher knows, None if it has none.

    Names are the same however they are spelt (L_Shoulder, left_shoulder). chosen: the keypoints of the shards
    that the teacher labels; None: all. Raises InputError if there are none, or if a chosen one is unknown.
    """
    unknown = [name for name in chosen or () if name not in skeleton.names]
    if unknown:
        raise InputError(
            f"keypoints: the shards have no {', '.join(unknown)}: choose from {', '.join(skeleton.names)}"
        )
    order = [
        place if chosen is None or name in chosen else None
        for name, place in zip(skeleton.names, places_of(skeleton.names, known), strict=True)
    ]
    missing = [name for name, place in zip(skeleton.names, order, strict=True) if place is None]
    if chosen is not None and (not_known := [name for name in chosen if name in missing]):
        raise InputError(
            f"{by}: the teacher does not know {', '.join(not_known)}: it knows {', '.join(known)}"
        )
    if len(missing) == skeleton.num_keypoints:
        raise InputError(
            f"{by}: the teacher knows {', '.join(known)}, and none of the keypoints of the shards "
            f"({', '.join(skeleton.names)}): rename the keypoints, or take another teacher"
        )
    return order


class _Source:
    """The samples of a folder of shards, which is whole."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self._folder = folder
        self.truth: dict[str, Any] = json.loads((folder / GROUND_TRUTH_NAME).read_bytes())
        rows = self.truth.get("detections", self.truth["annotations"])
        self.rows: list[dict[str, Any]] = rows[: manifest.num_samples]

    @property
    def photos(self) -> list[Photo]:
        """The photos of the samples."""
        return [Photo(id=row["id"], file_name=row["file_name"], size_wh=None) for row in self.truth["images"]]

    def start_of_photo(self, sample: int) -> int:
        """The first sample of the photo of a sample."""
        while (
            0 < sample < len(self.rows) and self.rows[sample]["image_id"] == self.rows[sample - 1]["image_id"]
        ):
            sample -= 1
        return sample

    def read(self, start: int) -> Iterator[tuple[str, Sample]]:
        """The samples from `start` on, each with its key."""
        first = 0
        for shard in self.manifest.shards:
            index = read_index(self._folder / shard.idx_file)[max(start - first, 0) :]
            first += shard.samples
            with (self._folder / shard.file).open("rb") as file:
                for members in index:
                    yield members[0].member.rpartition(".")[0], read_members(file, members)


def read_members(file: BinaryIO, members: Sequence[Component]) -> Sample:
    """The members of a sample of an open tar."""
    payloads = {}
    for component in members:
        file.seek(component.offset)
        payloads[component.extension] = file.read(component.size)
    return Sample(**payloads)


def _person(sample: Sample) -> StoredPerson:
    card = json.loads(sample.json)
    box_xywh = np.frombuffer(sample.pose, "<f4", BOX_NUMBERS).astype(np.float64)
    matrix = np.array(card["image_from_stored"])
    return StoredPerson(card["id"], card["image_id"], card["file_name"], sample.jpg, box_xywh, matrix)


def _identity(
    manifest: Manifest, teacher: Teacher, order: Sequence[int | None], cfg: TeachSettings
) -> Identity:
    """What the shards depend on."""
    people = [shard.sha256 for shard in manifest.shards]
    decided = [people, teacher.identity, order, cfg.min_confidence, cfg.revision, cfg.licence]
    return Identity(hashlib.sha256(json.dumps(decided).encode()).hexdigest(), manifest.settings_sha256)


def _write(
    journal: Journal,
    source: _Source,
    teacher: Teacher,
    order: Sequence[int | None],
    cfg: TeachSettings,
    console: Console,
) -> tuple[Manifest, np.ndarray]:
    """Fill the journal's folder with shards, ground truth and manifest; returns it and `_read_labels`."""
    manifest, tally = source.manifest, journal.resume()
    done, total = tally.num_samples, manifest.num_samples
    if done:
        console.print(f"continuing after {done:,} of {total:,} people")
    samples_per_shard = max(shard.samples for shard in manifest.shards)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        samples = _labelled(source, done, teacher, order, cfg.min_confidence)
        tracked = progress.track(samples, total=total, completed=done, description="people")
        shards = write_shards(
            journal.shards, journal.name, iter(tracked), samples_per_shard, num_written=done
        )
        for shard in shards:
            tally.shards.append(shard)
            tally.next_task = tally.num_samples
            journal.note(tally)
    labels = _read_labels(journal.shards, tally.shards, manifest.skeleton.num_keypoints)
    if not (labels[..., 2] > 0).any():
        journal.remove()  # the same labels again would be of no more use
        raise InputError(f"{teacher.model}: nobody is labelled: {teacher.why_nobody(cfg.min_confidence)}")
    truth = write_atomic(journal.shards / GROUND_TRUTH_NAME, _truth(source, labels))
    names = manifest.skeleton.names
    taught = replace(
        manifest,
        name=journal.name,
        shards=tuple(tally.shards),
        annotations_sha256=journal.identity.annotations_sha256,
        settings_sha256=journal.identity.settings_sha256,
        ground_truth_sha256=file_sha256(truth),
        dropped={},
        problems={},
        teacher=TeacherCard(
            model=teacher.model,
            revision=teacher.revision,
            licence=cfg.licence or teacher.licence,
            keypoints=tuple(name for name, place in zip(names, order, strict=True) if place is not None),
            labels_sha256=hashlib.sha256(labels.tobytes()).hexdigest(),
        ),
    )
    write_manifest(journal.shards, taught)
    return taught, labels


def _labelled(
    source: _Source, done: int, teacher: Teacher, order: Sequence[int | None], min_confidence: float
) -> Iterator[TarSample]:
    """The samples from number `done` on, with the labels of the teacher.

    The teacher begins with the first person of a photo, because it may tell its people apart.
    """
    start = source.start_of_photo(done)
    samples, shown = tee(source.read(start))
    answers = teacher.label(_person(sample) for _, sample in shown)
    known = [place for place in order if place is not None]
    labelled = [number for number, place in enumerate(order) if place is not None]
    for number, ((key, sample), answer) in enumerate(zip(samples, answers, strict=True), start):
        if number < done:
            continue
        keypoints = np.zeros((len(order), 3), np.float32)
        keypoints[labelled] = answer[known]
        keypoints[keypoints[:, 2] < min_confidence] = 0
        box_xywh = np.frombuffer(sample.pose, "<f4", BOX_NUMBERS)
        card = json.loads(sample.json)
        card.pop("score", None)  # of a detector's box, which is now a labelled person
        yield frame(sample._replace(pose=encode_pose(box_xywh, keypoints), json=encode_card(card)), key)


def _read_labels(folder: Path, shards: Sequence[ShardEntry], num_keypoints: int) -> np.ndarray:
    """(N, K, 3) float64: all labels of finished shards, in source pixels."""
    labels = []
    for shard in shards:
        with (folder / shard.file).open("rb") as file:
            for members in read_index(folder / shard.idx_file):
                sample = read_members(file, members)
                _, keypoints = decode_pose(sample.pose, num_keypoints)
                labels.append(move_keypoints(keypoints, _person(sample).image_from_stored))
    return np.array(labels)


def _truth(source: _Source, labels: np.ndarray) -> bytes:
    """The ground truth: the rows of the samples with their new labels, then the crowds of their photos."""
    category_id = source.truth["categories"][0]["id"]
    rows = []
    rounded = np.concatenate([labels[..., :2].round(4), labels[..., 2:]], axis=-1)
    for row, keypoints in zip(source.rows, rounded, strict=True):
        kept = {key: row[key] for key in ("id", "image_id", "bbox", "area")}
        rows.append(
            {
                **kept,
                "category_id": category_id,
                "iscrowd": 0,
                "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                "keypoints": keypoints.ravel().tolist(),
            }
        )
    rest = [] if "detections" in source.truth else source.truth["annotations"][len(rows) :]
    truth = {key: value for key, value in source.truth.items() if key != "detections"}
    return json.dumps({**truth, "annotations": [*rows, *rest]}, separators=(",", ":")).encode()


def _report(output: Path, taught: Manifest, labels: np.ndarray, console: Console) -> None:
    """What was labelled, how surely, and what the teacher does not know."""
    assert taught.teacher is not None
    known = [taught.skeleton.names.index(name) for name in taught.teacher.keypoints]
    confidences = labels[:, known, 2]
    sure = confidences[confidences > 0]
    mean = f", mean confidence {sure.mean():.2f}" if len(sure) else ""
    sources = f"data.sources=[{{shards: {json.dumps(str(output), ensure_ascii=False)}}}]"
    console.print(
        f"{output}: {len(labels):,} people labelled by {taught.teacher.model}: {len(sure):,} of "
        f"{confidences.size:,} keypoints{mean}; use them in a run with {shlex.quote(sources)}",
        highlight=False,
        soft_wrap=True,
    )
    nobody = int((labels[..., 2] <= 0).all(axis=1).sum())
    if nobody:
        console.print(f"note: {nobody:,} people have no label at all", highlight=False)
    unknown = [name for name in taught.skeleton.names if name not in taught.teacher.keypoints]
    if unknown:
        console.print(f"note: not labelled: {', '.join(unknown)}", highlight=False, soft_wrap=True)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    with exit_on_input_error():
        request = read_request(
            TeachSettings,
            description="Label the people of shards by a model, for a run that learns from it beside your "
            "own labels. TEACHER is the folder of a run, a model folder, hf://OWNER/NAME, vitpose:MODEL, or "
            "a .json file of COCO results.",
            path_name="TEACHER SHARDS OUTPUT",
            takes_many=True,
            argv=argv,
        )
        if len(request.words) != 3:
            raise InputError(
                "command line: give a teacher, a folder of shards and the folder to make, such as `semipose "
                "teach runs/big shards/my-train shards/my-taught`"
            )
        by, shards, output = request.words
        cfg = load(TeachSettings, None, request.overrides)
        with stoppable():
            teach(by, Path(shards), Path(output), cfg, plain_console())
