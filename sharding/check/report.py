"""`check=only`: every fault of annotations and photos as a table and as JSON, and a sheet of people."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from semipose.configs.load import InputError
from semipose.sharding.annotations.category import describe_keypoints, list_keypoints
from semipose.sharding.annotations.checks import inspect_people
from semipose.sharding.annotations.findings import Effect, Finding, Findings
from semipose.sharding.annotations.split import describe_split, take_side
from semipose.sharding.check.photo_check import survey_photos
from semipose.sharding.check.sheet import draw_sheet
from semipose.sharding.samples.plan import make_plan
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.files import write_atomic

EFFECTS: dict[Effect, tuple[str, str]] = {
    "stops": ("ERROR", "bold red"),
    "warned": ("WARNING", "bold yellow"),
    "dropped": ("dropped", "yellow"),
    "corrected": ("corrected", "cyan"),
    "kept": ("noted", "cyan"),
    "passed over": ("passed over", "cyan"),
}
"""The name and style of each effect, the most serious first."""
IDS_SHOWN = 5


def check(settings: BuildSettings, *, console: Console) -> None:
    """Report every fault of a recipe's annotations and photos, without touching the output.

    Writes beside the output `OUTPUT.check.json`, with all ids and with how each keypoint is understood, and
    `OUTPUT.check.jpg`, with 16 random people (by `seed`) and their keypoints. Raises InputError if a build
    would refuse the input.
    """
    with np.errstate(all="ignore"):  # numbers that float32 cannot hold become findings
        everyone = settings.read()
    annotations, split = take_side(everyone, settings.split)
    if split is not None:
        console.print(describe_split(split), highlight=False, soft_wrap=True)
    survey = survey_photos(settings, annotations, console=console)
    with np.errstate(all="ignore"):
        inspect_people(everyone, survey.sizes_wh)
    found = (annotations.findings, survey.findings)
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    summary = {"people": len(annotations.persons), "photos": survey.num_photos}
    listed = beside(settings.output, "check.json")
    write_json(listed, {**summary, "keypoints": list_keypoints(annotations.skeleton)}, found)
    print_table(console, f"{annotations.findings.file}: {_counted(summary)}", found)
    for what, text in describe_keypoints(annotations.skeleton).items():
        console.print(f"{what}: {text}", highlight=False, soft_wrap=True)
    console.print(f"all ids: {listed}", highlight=False, soft_wrap=True)
    sheet = beside(settings.output, "check.jpg")
    if draw_sheet(sheet, annotations, unusable=survey.unusable, seed=settings.seed):
        console.print(f"some people to look at: {sheet}", highlight=False, soft_wrap=True)
    print_warnings(console, found)
    _refuse(settings, found, listed)
    tasks = make_plan(settings, annotations, Counter())
    if all(task.photo.file_name in survey.unusable for task in tasks):
        raise InputError(f"{annotations.photos.location}: every photo is damaged: correct the source")


def beside(output: Path, suffix: str) -> Path:
    """`OUTPUT.SUFFIX`."""
    output = output.absolute()
    return output.with_name(f"{output.name}.{suffix}")


def write_json(path: Path, summary: Mapping[str, Any], found: Iterable[Findings]) -> Path:
    """Write every fault with all its records; returns the path."""
    faults = [fault for findings in found for fault in findings.to_json()]
    faults.sort(key=lambda fault: list(EFFECTS).index(fault["effect"]))
    content = {**summary, "errors": sum(fault["effect"] == "stops" for fault in faults), "faults": faults}
    return write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def print_table(console: Console, title: str, found: Iterable[Findings]) -> None:
    """Every kind of fault with its file (if the title does not name it), count and first records."""
    rows = sorted(
        ((findings.file, finding) for findings in found for finding in findings),
        key=lambda row: list(EFFECTS).index(row[1].fault.effect),
    )
    if not rows:
        console.print(f"{title}: no fault found", highlight=False, soft_wrap=True)
        return
    table = Table(title=Text(title), show_lines=True)
    table.add_column("")
    table.add_column("fault", overflow="fold", ratio=3)
    table.add_column("count", justify="right")
    table.add_column("first", overflow="fold", ratio=2)
    table.add_column("what to do", overflow="fold", ratio=2)
    for file, finding in rows:
        name, style = EFFECTS[finding.fault.effect]
        what = Text(finding.fault.what)
        if not title.startswith(file):
            what.append(f"\n{file}", "dim")
        count, first = f"{len(finding.ids):,}", Text(_first(finding))
        table.add_row(Text(name, style), what, count, first, Text(finding.cure))
    console.print(table)


def print_warnings(console: Console, found: Iterable[Findings]) -> None:
    """One line for each fault with so many records that the file is probably wrong."""
    for line in (line for findings in found for line in findings.warnings()):
        console.print(Text(f"WARNING: {line}", EFFECTS["warned"][1]), soft_wrap=True)


def _first(finding: Finding) -> str:
    ids = ", ".join(map(str, finding.ids[:IDS_SHOWN])) + (", ..." if len(finding.ids) > IDS_SHOWN else "")
    return f"{finding.fault.subject} {ids}" + (f"\n({finding.detail})" if finding.detail else "")


def _counted(summary: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in summary.items())


def _refuse(settings: BuildSettings, found: Iterable[Findings], listed: Path) -> None:
    whats = [
        finding.fault.what for findings in found for finding in findings if finding.fault.effect == "stops"
    ]
    if whats:
        raise InputError(
            f"{settings.output}: faults stop this build ({'; '.join(whats)}): "
            f"the table above and {listed} say where they are and what to do"
        )
