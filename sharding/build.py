"""Build a folder of shards from annotations and photos: `python sharding/build.py RECIPE [key=value ...]`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, Python looks for packages in this folder instead of its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from semipose.sharding.stopping import leave_when_stopped

    leave_when_stopped()

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from semipose.configs.console import plain_console
from semipose.configs.disk import named_disk_errors
from semipose.configs.load import InputError, command
from semipose.sharding.annotations.category import describe_keypoints
from semipose.sharding.annotations.checks import inspect_people
from semipose.sharding.annotations.findings import Findings
from semipose.sharding.annotations.more_keypoints import add_keypoints
from semipose.sharding.annotations.record import Annotations
from semipose.sharding.annotations.split import SplitCard, describe_split, take_side
from semipose.sharding.check.report import EFFECTS, check, print_warnings
from semipose.sharding.check.verify import verify_command
from semipose.sharding.samples.plan import make_plan, photos_without_box
from semipose.sharding.samples.sample import PhotoTask, TarSample
from semipose.sharding.samples.worker import PhotoSamples, do_job, make_jobs
from semipose.sharding.settings import BuildSettings
from semipose.sharding.stopping import stoppable
from semipose.sharding.store.executor import map_in_order
from semipose.sharding.store.files import file_sha256
from semipose.sharding.store.ground_truth import write_ground_truth
from semipose.sharding.store.identity import identify
from semipose.sharding.store.journal import Journal, Tally
from semipose.sharding.store.manifest import (
    GROUND_TRUTH_NAME,
    PHOTO_DAMAGED,
    Manifest,
    write_manifest,
)
from semipose.sharding.store.output import check_name, make_output
from semipose.sharding.store.write import write_shards


def build(settings: BuildSettings, *, console: Console) -> Manifest:
    """Make the folder of shards that `settings` describe, unless it exists already.

    Everything is written to a temporary folder, shard by shard, and moved at the end, so a folder with a
    manifest is complete. A build that was stopped in any way continues after its last complete shard. An
    output with the same settings and annotations is kept if it is complete, and made again if it is damaged.
    Raises InputError for faults of the input, for an output that holds anything else, if another build of the
    same output is running, and for a disk that cannot be written.
    """
    start = time.perf_counter()
    check_name(settings.output.name, console)
    with np.errstate(all="ignore"):  # numbers that float32 cannot hold become findings
        annotations = settings.read()
        if settings.more_keypoints:
            annotations = add_keypoints(annotations, settings.more_keypoints)
        inspect_people(annotations)
    annotations.findings.raise_errors()
    annotations, split = take_side(annotations, settings.split)
    if split is not None:
        console.print(describe_split(split), highlight=False, soft_wrap=True)
    num_photos = 0

    def write(journal: Journal) -> Manifest:
        nonlocal num_photos
        manifest, num_photos = _build_aside(journal, settings, annotations, console, split=split)
        return manifest

    manifest, is_new = make_output(settings.output, identify(settings, annotations), write, console)
    if not is_new:
        print_warnings(console, (annotations.findings,))
        return manifest
    seconds = time.perf_counter() - start
    _print_summary(
        console, settings.output, manifest, annotations.findings, num_photos=num_photos, seconds=seconds
    )
    print_warnings(console, (annotations.findings,))
    return manifest


def _build_aside(
    journal: Journal,
    settings: BuildSettings,
    annotations: Annotations,
    console: Console,
    *,
    split: SplitCard | None,
) -> tuple[Manifest, int]:
    """Fill the journal's folder with shards, ground truth and manifest; returns it and the photo count."""
    dropped = Counter(annotations.findings.counts("dropped"))
    plan = make_plan(settings, annotations, dropped)
    tally = journal.resume()
    if tally.shards:
        console.print(f"continuing after {len(tally.shards)} complete shards of {settings.output}")
    _write_all(journal, tally, settings, annotations, plan, console)
    dropped[PHOTO_DAMAGED] = sum(settings.sample_kind.num_samples(plan[index]) for index in tally.faults)
    if not tally.shards:
        raise InputError(
            f"{settings.output}: no samples are left to store (dropped: {dict(+dropped)}): correct the source"
        )
    stored = [
        (task, task.photo.size_wh or tally.sizes_wh[index])
        for index, task in enumerate(plan)
        if index not in tally.faults
    ]
    truth = write_ground_truth(
        journal.shards / GROUND_TRUTH_NAME,
        annotations,
        stored,
        without_box=photos_without_box(settings, annotations),
    )
    manifest = Manifest(
        format_version=settings.sample_kind.format_version,
        kind=settings.kind,
        name=settings.output.name,
        skeleton=annotations.skeleton,
        crop=settings.crop,
        order=settings.order,
        seed=settings.seed,
        shards=tuple(tally.shards),
        annotations_sha256=journal.identity.annotations_sha256,
        settings_sha256=journal.identity.settings_sha256,
        ground_truth_sha256=file_sha256(truth),
        dropped=dict(+dropped),
        problems=_count_problems(annotations, tally),
        split=split,
    )
    write_manifest(journal.shards, manifest)
    return manifest, len(stored)


def _count_problems(annotations: Annotations, tally: Tally) -> dict[str, int]:
    """The number of annotations and stored photos with something to note, by the kind of note."""
    of_photos = Counter(chain.from_iterable(tally.notes.values()))
    return annotations.findings.counts("warned", "corrected", "kept") | dict(of_photos)


def _write_all(
    journal: Journal,
    tally: Tally,
    settings: BuildSettings,
    annotations: Annotations,
    plan: Sequence[PhotoTask],
    console: Console,
) -> None:
    """Write the missing shards, and record each in journal and tally when it is complete."""
    jobs = make_jobs(plan, tally.next_task, annotations=annotations, settings=settings)
    results = map_in_order(do_job, jobs, executor=settings.executor, workers=settings.workers)
    samples = _samples(chain.from_iterable(results), plan, tally, settings)
    name = settings.output.name
    total = sum(map(settings.sample_kind.num_samples, plan))
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with closing(results), Progress(*columns, console=console) as progress:
        bar = progress.add_task(f"sharding {name}", total=total, completed=tally.num_samples)
        tracked = progress.track(samples, task_id=bar)
        shards = write_shards(
            journal.shards,
            name,
            iter(tracked),
            settings.samples_per_shard,
            num_written=tally.num_samples,
        )
        for shard in shards:
            tally.shards.append(shard)
            journal.note(tally)


def _samples(
    photos: Iterable[PhotoSamples], plan: Sequence[PhotoTask], tally: Tally, settings: BuildSettings
) -> Iterator[TarSample]:
    """The samples in order, from where the tally stands; the tally counts the samples yielded so far."""
    skip = tally.next_sample
    for index, photo in enumerate(photos, tally.next_task):
        if photo.fault:
            if settings.corrupt_images == "stop":
                raise InputError(photo.fault)
            tally.faults[index] = photo.fault
        elif plan[index].photo.size_wh is None:
            tally.sizes_wh[index] = photo.size_wh
        if photo.notes:
            tally.notes[index] = photo.notes
        for number, sample in enumerate(photo.samples[skip:], skip + 1):
            tally.next_task, tally.next_sample = index, number
            yield sample
        skip = 0


def _print_summary(
    console: Console, output: Path, manifest: Manifest, findings: Findings, *, num_photos: int, seconds: float
) -> None:
    """Print a table, warnings first; notes are about the annotations of both sides of a split."""
    table = Table(title=str(output), show_header=False)
    name, style = EFFECTS["warned"]
    warned = findings.counts("warned")
    for problem, count in warned.items():
        table.add_row(f"{name}: {problem}", f"{count:,}", style=style)
    table.add_row("samples", f"{manifest.num_samples:,} ({manifest.kind}) of {num_photos:,} photos")
    for reason, count in manifest.dropped.items():
        table.add_row(f"dropped: {reason}", f"{count:,}")
    noted = {what: count for what, count in manifest.problems.items() if what not in warned}
    for problem, count in noted.items():
        table.add_row(f"noted: {problem}", f"{count:,}")
    for what, text in describe_keypoints(manifest.skeleton).items():
        table.add_row(what, Text(text))
    for finding in findings:
        if finding.fault.effect == "passed over":
            table.add_row(f"passed over: {finding.fault.what} ({finding.detail})", f"{len(finding.ids):,}")
    table.add_row("shards", f"{len(manifest.shards):,}, {manifest.num_bytes / 1e6:,.1f} MB")
    table.add_row("time", f"{seconds:.1f} s, {num_photos / seconds:,.0f} images/s")
    console.print(table)


def main(settings: BuildSettings) -> None:
    """Build, or check only, with progress and summary on the terminal."""
    if settings.check == "only":
        with stoppable("stopped\n"), named_disk_errors(settings.output):
            check(settings, console=plain_console())
    else:
        with stoppable():
            build(settings, console=plain_console())


if __name__ == "__main__":
    if any(word.startswith("verify=") for word in sys.argv[1:]):
        verify_command()
    else:
        command(
            BuildSettings,
            main,
            description="Build tar shards from annotations and photos; check=only just checks them. Instead "
            "of a recipe, verify=OUTPUT reads finished shards and lists whatever is not as it was built.",
            recipes="shards",
        )
