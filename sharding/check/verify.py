"""`verify=OUTPUT`: reads a whole folder of shards and lists everything that is not as it was built."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import zip_longest
from pathlib import Path

import msgspec
from pydantic import Field
from rich.console import Console
from rich.progress import Progress

from semipose.configs.console import plain_console
from semipose.configs.load import InputError, exit_on_input_error, load, read_request
from semipose.configs.settings import settings
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.check.report import beside, print_table, write_json
from semipose.sharding.check.shard_check import MISSING_FILE, OTHER_HASH, ShardJob, ShardReport, check_shard
from semipose.sharding.samples.sample import SampleKind
from semipose.sharding.stopping import stoppable
from semipose.sharding.store.executor import map_in_order
from semipose.sharding.store.files import file_sha256
from semipose.sharding.store.ground_truth import TruthFile, read_truth
from semipose.sharding.store.manifest import (
    GROUND_TRUTH_NAME,
    MANIFEST_NAME,
    Manifest,
    check_keypoints,
    read_manifest,
)

_CURE = "copy it again or build the shards again"
EXTRA_FILE = Fault("file that the manifest does not name", cure="move it elsewhere", subject="file")
BAD_TRUTH = Fault("no ground truth in COCO form", cure=_CURE, subject="file")
KEY_AGAIN = Fault("key of a sample in another shard too", cure=_CURE, subject="sample")
NOT_STORED = Fault("annotation of the ground truth that no sample has", cure=_CURE)
OTHER_ORDER = Fault("samples in another order than the ground truth", cure=_CURE, subject="sample")


@settings
class VerifySettings:
    """The settings of `verify=OUTPUT`."""

    verify: Path
    """The folder of shards that is read and compared with its manifest."""
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Number of processes; each reads one shard at a time."""


class _Id(msgspec.Struct):
    id: int
    image_id: int | None = None


class _Truth:
    """The rows of ground_truth.json, undecoded, and their ids; those of the samples' people come first.

    If the samples are boxes of a detector, the rows are those of `detections`.
    """

    def __init__(self, file: TruthFile) -> None:
        decoder = msgspec.json.Decoder(_Id)
        self._rows = file.annotations if file.detections is None else file.detections
        places = [decoder.decode(row) for row in self._rows]
        self.ids = [place.id for place in places]
        self._images = [decoder.decode(row).id for row in file.images]
        self._of_image: dict[int, list[int]] = {}
        for index, place in enumerate(places):
            if place.image_id is not None:
                self._of_image.setdefault(place.image_id, []).append(index)

    def of_samples(self, kind: SampleKind, start: int, count: int) -> dict[int, bytes]:
        """The rows by id that samples `start` to `start + count` should have."""
        indices = kind.truth_rows(start, count, self._images, self._of_image)
        return {self.ids[index]: bytes(self._rows[index]) for index in indices if index < len(self._rows)}


def verify(settings: VerifySettings, *, console: Console) -> None:
    """Read every file of a folder of shards and compare it with the manifest, the index and the ground truth.

    Prints a table of every kind of difference, with its file and the first members, and writes all members to
    `OUTPUT.verify.json` beside it. Raises InputError if anything differs, or if there is no manifest that can
    be read.
    """
    folder = settings.verify
    manifest = read_manifest(folder)
    files = _check_files(folder, manifest)
    truth = _read_truth(folder / GROUND_TRUTH_NAME, manifest, files)
    jobs = _make_jobs(folder, manifest, truth)
    results = map_in_order(check_shard, jobs, executor="local", workers=settings.workers)
    with closing(results), Progress(console=console) as progress:
        total = len(manifest.shards)
        reports = list(progress.track(results, total=total, description="reading shards"))
    _check_across(reports, truth, manifest, files)
    found = [*(report.findings for report in reports), files]
    faults = sum(len(finding.ids) for findings in found for finding in findings)
    if faults:
        print_table(console, str(folder), found)
        listed = _write_list(beside(folder, "verify.json"), manifest, found)
        raise InputError(
            f"{folder}: {faults} faults, all listed in {listed}: these shards are not as they were built"
        )
    console.print(
        f"{folder}: {manifest.num_samples:,} samples in {total:,} shards, all as they were built",
        highlight=False,
        soft_wrap=True,
    )


def _write_list(path: Path, manifest: Manifest, found: Sequence[Findings]) -> Path:
    try:
        return write_json(path, {"samples": manifest.num_samples}, found)
    except OSError as error:
        raise InputError(
            f"{path}: the list of faults cannot be written ({error.strerror}): correct that"
        ) from error


def verify_command(argv: list[str] | None = None) -> None:
    """The command line `verify=OUTPUT [workers=N]`; None takes the words of the process."""
    with exit_on_input_error():
        request = read_request(
            VerifySettings,
            description="Reads finished shards and names all that is not as it was built.",
            path_name="verify=OUTPUT",
            argv=argv,
        )
        if request.recipe is not None:
            raise InputError(f"command line: {request.recipe}: verify=OUTPUT takes no recipe: leave it out")
        with stoppable("stopped\n"):
            verify(load(VerifySettings, None, request.overrides), console=plain_console())


def _check_files(folder: Path, manifest: Manifest) -> Findings:
    """Files beside the tars and their indices."""
    findings = Findings(folder)
    known = {MANIFEST_NAME, GROUND_TRUTH_NAME}
    known |= {name for shard in manifest.shards for name in (shard.file, shard.idx_file)}
    for name in sorted({path.name for path in folder.iterdir()} - known):
        findings.add(EXTRA_FILE, name)
    return findings


def _read_truth(path: Path, manifest: Manifest, findings: Findings) -> _Truth | None:
    if not path.is_file():
        findings.add(MISSING_FILE, path.name)
        return None
    if file_sha256(path) != manifest.ground_truth_sha256:
        findings.add(OTHER_HASH, path.name)
    try:
        check_keypoints(path, manifest, where=str(path))
        return _Truth(read_truth(path, num_keypoints=manifest.skeleton.num_keypoints))
    except InputError as error:
        findings.add(BAD_TRUTH, path.name, str(error).replace(f"{path}: ", "").replace("\n", "; "))
        return None


def _make_jobs(folder: Path, manifest: Manifest, truth: _Truth | None) -> Iterator[ShardJob]:
    start = 0
    for shard in manifest.shards:
        rows = None if truth is None else truth.of_samples(manifest.sample_kind, start, shard.samples)
        num_keypoints, is_taught = manifest.skeleton.num_keypoints, manifest.teacher is not None
        yield ShardJob(str(folder), shard, manifest.sample_kind, num_keypoints, rows, is_taught)
        start += shard.samples


def _check_across(
    reports: Sequence[ShardReport], truth: _Truth | None, manifest: Manifest, findings: Findings
) -> None:
    """Check what only all shards together show."""
    shards_of = Counter(key for report in reports for key in report.keys)
    for key, count in shards_of.items():
        if count > 1:
            findings.add(KEY_AGAIN, key)
    stored = [person for report in reports for person in report.ids]
    if truth is None:
        return
    expected = truth.ids[: manifest.sample_kind.num_people(manifest.num_samples, len(stored))]
    missing = set(expected) - set(stored)
    for person in expected:
        if person in missing:
            findings.add(NOT_STORED, person)
    if not missing and stored != expected:
        pairs = zip_longest(stored, expected)  # one may continue after the other ends
        here, there = next(pair for pair in pairs if pair[0] != pair[1])
        findings.add(OTHER_ORDER, there if here is None else here)
