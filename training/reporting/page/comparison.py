"""The page of a comparison: tables of many runs, their curves and keypoints, and what the differences say."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from semipose.configs.load import InputError
from semipose.configs.words import listed
from semipose.sharding.store.files import write_atomic
from semipose.training.experiments.runs import Group, Protocol, Replicate
from semipose.training.experiments.tables import (
    CompareSettings,
    Found,
    Row,
    difference,
    gains,
    make_curves,
    make_sheet,
)
from semipose.training.reporting.page import figures
from semipose.training.reporting.page.diagnosis import compare_people, score_by_keypoint
from semipose.training.reporting.page.page import render
from semipose.training.reporting.people import ScoredPeople, read_people

PAGE_NAME = "compare.html"
MOST_DRAWN = 6
"""Groups in a figure; of more, the best, with the baseline."""


def write_comparison(found: Found, cfg: CompareSettings, output: Path) -> Path:
    """Write the page of finished runs into `output` and return its path."""
    tables = [
        {
            "sheet": make_sheet(protocol, groups, cfg),
            "sentences": list(sentences(groups, cfg.baseline)),
            "figures": list(_figures(f"t{number}", protocol, groups, cfg.baseline)),
            "folders": [(group.name, [str(run.folder) for run in group.runs.values()]) for group in groups],
        }
        for number, (protocol, groups) in enumerate(found.tables.items())
    ]
    title = f"Comparison of the runs in {output.resolve().name}"
    values = {"title": title, "tile_width": 300, "tables": tables, "notes": found.notes}
    path = output / PAGE_NAME
    write_atomic(path, render("compare.html.j2", values).encode())
    return path


def sentences(groups: list[Group], baseline_name: str | None) -> Iterator[str]:
    """What the differences from the baseline say, one sentence for each other group."""
    baseline = next((group for group in groups if group.name == baseline_name), None)
    if baseline is None:
        yield "No baseline was given here: baseline=NAME adds the differences from a row, seed by seed."
        return
    metric = baseline.any.metric
    for group in groups:
        if group is baseline:
            continue
        row = Row("", group, group.any.product)
        shared = gains(row, baseline, metric)
        if not shared:
            yield f"{group.name} shares no seed with {baseline.name}, so nothing can be said."
            continue
        better = sum(gain > 0 for gain in shared.values())
        words = f"{group.name}: {metric} {difference(row, baseline, metric)} points against {baseline.name}"
        verdict = {len(shared): "better with every seed", 0: "better with no seed"}
        seeds = verdict.get(better, f"better with {better} of {len(shared)} seeds")
        if len(shared) == 1:
            seeds = "with one seed: seeds alone can move a score by several points"
        yield f"{words}, {seeds}.{_of_people(group, baseline, shared)}"


def _of_people(group: Group, baseline: Group, shared: Iterable[Replicate]) -> str:
    """How many of the scored people are found better and worse, seed by seed; empty without their lists."""
    parts = []
    for key in shared:
        own, other = _people(group.runs[key].folder), _people(baseline.runs[key].folder)
        change = compare_people(own, other) if own and other else None
        if change is not None:
            parts.append(f"{change.better:,} better and {change.worse:,} worse ({key.words})")
    return f" Of the people who are scored, {listed(parts)}." if parts else ""


def _people(folder: Path) -> ScoredPeople | None:
    try:
        return read_people(folder)
    except InputError:
        return None


def _figures(name: str, protocol: Protocol, groups: list[Group], baseline_name: str | None) -> Iterator[str]:
    """The curves of score and loss, and the score of each keypoint."""
    metric = groups[0].any.metric
    order = sorted(groups, key=lambda group: -_mean(group, metric))
    drawn = [group for group in order if group.name != baseline_name][: MOST_DRAWN - 1]
    drawn += [group for group in order if group.name == baseline_name]
    curves = list(make_curves({protocol: drawn}))
    panels: dict[tuple[str, str], list[tuple[str, dict[int, float]]]] = {}
    for curve in curves:
        kind = "log" if curve.panel.startswith("loss") else ""
        title = f"{curve.panel.splitlines()[0].rstrip(',')}, mean over seeds"
        label = f"baseline: {curve.method}" if curve.method == baseline_name else curve.method
        panels.setdefault((title, kind), []).append((label, dict(zip(curve.steps, curve.means, strict=True))))
    yield figures.learning_curves([(title, kind, rows) for (title, kind), rows in panels.items()], name)
    labels = [f"baseline: {group.name}" if group.name == baseline_name else group.name for group in drawn]
    rows = [(label, _by_keypoint(group)) for label, group in zip(labels, drawn, strict=True)][::-1]
    keypoints = rows[0][1].keys()
    series = [(label, np.array(list(row.values()))) for label, row in rows if row.keys() == keypoints]
    if keypoints:
        title = "By keypoint, percent, mean over seeds"
        yield figures.score_by_keypoint(title, list(keypoints), series, f"{name}-keypoints")


def _mean(group: Group, metric: str) -> float:
    values = list(Row("", group, group.any.product).values(metric).values())
    return float(np.mean(values)) if values else 0.0


def _by_keypoint(group: Group) -> dict[str, float]:
    """PCK of each keypoint in percent, mean over seeds; else the share found, from the lists of people."""
    scored = [score_by_keypoint(run.last[run.product], _people(run.folder)) for run in group.runs.values()]
    rows = [row for row in scored if row]
    names = rows[0] if rows else {}
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
