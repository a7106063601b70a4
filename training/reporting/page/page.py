"""Builds the page: what was read, what it says, figures and pictures, into the template."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from semipose.configs.load import InputError
from semipose.models.files import PAGE_NAME
from semipose.sharding.store.files import write_atomic
from semipose.training.reporting.page import figures
from semipose.training.reporting.page.advice import did_unlabelled_help, next_steps, where_it_errs
from semipose.training.reporting.page.contents import (
    RunContents,
    data_notes,
    find_baseline,
    read_contents,
)
from semipose.training.reporting.page.diagnosis import (
    NEAR,
    PCK_PREFIX,
    Confidence,
    Keypoints,
    compare_people,
    confidence,
    diagnose,
    score_by_keypoint,
)
from semipose.training.reporting.page.tiles import draw_person, last_sheet
from semipose.training.reporting.people import ScoredPeople

GROUPS = {
    "worst": "The people with the lowest OKS. Are their labels right? If so, label more people like them.",
    "median": "The median people: half of all people are found worse, half better.",
    "best": "The best people.",
}


def write_page(folder: Path, *, against: Path | None = None, output: Path | None = None) -> Path:
    """Write the page of a run and return its path; RUN/report.html without an `output`.

    against: the run to compare with; without it, the supervised run beside it, if there is one with the same
    people and steps. Raises InputError if a run was not scored yet, or the two were scored on other people.
    """
    run = read_contents(folder)
    baseline = find_baseline(run) if against is None else read_contents(against)
    if baseline is not None:
        _refuse_other_people(run, baseline)
    path = output or folder / PAGE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render("run.html.j2", contents_of(run, baseline)).encode())
    return path


def render(template: str, values: dict[str, Any]) -> str:
    """A template of this folder, filled in; texts are escaped, and a missing value is an error."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(values)


def _refuse_other_people(run: RunContents, baseline: RunContents) -> None:
    if run.card["val"]["ids_sha256"] != baseline.card["val"]["ids_sha256"]:
        raise InputError(
            f"against: {baseline.folder} was scored on other people than {run.folder}, so their scores "
            "cannot be compared: choose a run with the same data.val"
        )
    if run.metric not in baseline.last:
        raise InputError(f"against: {baseline.folder} has no {run.metric}: choose a run that is scored alike")


def contents_of(run: RunContents, baseline: RunContents | None) -> dict[str, Any]:
    """The values of the template."""
    people, others = run.people, baseline.people if baseline else None
    if people is None or not len(people.ids):
        people = others = None
    keypoints = diagnose(people) if people else None
    sure = confidence(people) if people else None
    change = compare_people(people, others) if people and others else None
    notes = data_notes(run)
    help_answer = did_unlabelled_help(run, baseline, change)
    steps = list(next_steps(run, baseline, help_answer, keypoints, sure, notes))
    sheet = last_sheet(run.folder, "views")
    return {
        "title": run.name,
        "tile_width": 345 if others else 260,
        "run": run,
        "baseline": baseline,
        "subtitle": subtitle(run),
        "numbers": numbers(run, baseline),
        "answers": [help_answer, where_it_errs(run, keypoints, sure)],
        "steps": steps,
        "learning": figures.learning_curves(panels(run, baseline)),
        "errors": _error_figures(run, baseline, people, others, keypoints, sure),
        "groups": list(_groups(people, others)) if people else [],
        "views": sheet,
        "notes": notes,
        "card": card_rows(run),
    }


def subtitle(run: RunContents) -> str:
    """Who was trained on what, in one line."""
    unlabelled = f"{run.num_unlabelled:,} unlabelled" if run.num_unlabelled else "no unlabelled"
    return (
        f"{run.card['method']}: {run.num_labelled:,} labelled and {unlabelled} {run.samples}, "
        f"{run.steps:,} steps, seed {run.settings['seed']}, protocol {run.card['protocol']}"
    )


def numbers(run: RunContents, baseline: RunContents | None) -> list[tuple[str, str, str]]:
    """What stands in large type: its name, its value, and what it is compared with."""
    names = dict.fromkeys((run.metric, *(name for name in ("AP", "PCK", "PCKh", "AIC") if name in run.last)))
    rows = []
    for name in list(names)[:2]:
        value, note = 100 * run.last[name], f"percent, at step {run.step:,}"
        if baseline is not None and baseline.last.get(name, -1) >= 0:
            note = f"{value - 100 * baseline.last[name]:+.1f} against {baseline.name}"
        label = "PCK@0.2" if name == "PCK" else name
        rows.append((label, f"{value:.1f}", note))
    scored = run.card["scoring"]
    where = "in whole photos" if scored["boxes"] == "none" else f"in {scored['boxes']} boxes"
    flip = ", with the flip test" if scored["flip_test"] else ""
    rows.append(("people scored", f"{scored['people']:,}", f"{where}{flip}"))
    parameters = run.card.get("parameters")
    size = "-" if parameters is None else f"{parameters / 1e6:.2f} M"
    rows.append(("parameters", size, f"{run.card['networks']} trained, {run.product} is scored"))
    return rows


def panels(run: RunContents, baseline: RunContents | None) -> list[tuple[str, str, list[Any]]]:
    """The learning curves: title, kind of axis and curves; those that the run has."""
    both = [(run.name, run), *([(f"baseline: {baseline.name}", baseline)] if baseline else [])]
    losses = [name for name in run.terms("loss_") if name != "loss_supervised"]
    masks = run.terms("masks") + run.terms("easy_joints")
    teacher = run.terms("teacher_peak") + run.terms("trusted_share")
    rows: list[tuple[str, str, list[Any]]] = [
        (
            f"{run.metric} of the scored people, percent",
            "",
            [(name, each.score_curve) for name, each in both],
        ),
        ("Loss on the labelled people", "log", [(name, _supervised_loss(each)) for name, each in both]),
        ("Teacher: mean peak, share that counts", "share", [(name, run.curve(name)) for name in teacher]),
        (
            "Teacher in hidden annotations",
            "share",
            [(name.removeprefix("probe/"), run.curve(name)) for name in run.terms("probe/")],
        ),
        ("Losses on the unlabelled people", "log", [(name, run.curve(name)) for name in losses]),
        ("Hidden keypoints per person", "", [(name, run.curve(name)) for name in masks]),
        ("Speed, samples per second", "", [(name, each.curve("samples_per_s")) for name, each in both]),
    ]
    drawn = [(title, kind, [curve for curve in curves if curve[1]]) for title, kind, curves in rows]
    return [row for row in drawn if row[2]]


def _supervised_loss(run: RunContents) -> dict[int, float]:
    return run.curve("loss_supervised") or run.curve("loss")


def _error_figures(
    run: RunContents,
    baseline: RunContents | None,
    people: ScoredPeople | None,
    others: ScoredPeople | None,
    keypoints: Keypoints | None,
    sure: Confidence | None,
) -> dict[str, str]:
    """The figures about errors, by name; those for which there are data."""
    drawn = {}
    own = score_by_keypoint(run.last, run.people)
    if own:
        series = [(run.name, np.array(list(own.values())))]
        other = score_by_keypoint(baseline.last, baseline.people) if baseline is not None else {}
        if baseline is not None and other.keys() == own.keys():
            series.insert(0, (f"baseline: {baseline.name}", np.array([other[name] for name in own])))
        has_pck = any(name.startswith(PCK_PREFIX) for name in run.last)
        title = "PCK@0.2 by keypoint, percent" if has_pck else "Keypoints found (OKS of 0.5 or more), percent"
        drawn["keypoints"] = figures.score_by_keypoint(title, list(own), series)
    if people is not None and keypoints is not None:
        drawn["kinds"] = figures.errors_by_keypoint(keypoints)
        series = [(run.name, people.oks)]
        if others is not None and baseline is not None:
            series.insert(0, (baseline.name, others.oks))
        drawn["oks"] = figures.oks_histogram(series)
        if sure is not None:
            found = people.is_found
            what = "mean confidence" if run.samples == "photos" else "mean peak of a person's heatmaps"
            drawn["peaks"] = figures.peak_against_oks(
                people.mean_peak[found], people.oks[found], sure.tenths, what
            )
    return drawn


def _groups(people: ScoredPeople, others: ScoredPeople | None) -> Iterator[dict[str, Any]]:
    """The worst, median and best people, each with its picture and captions."""
    oks, similarity = people.oks, people.similarity
    for group, indices in people.chosen().items():
        tiles = []
        for index in indices.tolist():
            picture = draw_person(people, index, others)
            if picture is None:
                continue
            labelled = int((people.truth[index, :, 2] > 0).sum())
            wrong = int((similarity[index] < NEAR).sum())
            tiles.append(
                {
                    "id": int(people.ids[index]),
                    "file": str(people.file_names[index]),
                    "picture": picture,
                    "oks": f"{oks[index]:.2f}",
                    "was": _oks_of(others, int(people.ids[index])),
                    "peak": f"peak {people.mean_peak[index]:.2f}" if people.is_found[index] else "not found",
                    "wrong": f"{wrong} of {labelled} keypoints elsewhere",
                }
            )
        yield {"name": group, "text": GROUPS[group], "tiles": tiles}


def _oks_of(others: ScoredPeople | None, person_id: int) -> str:
    """The OKS of a person in the baseline; empty if it is not there."""
    if others is None or person_id not in others.ids:
        return ""
    return f"{others.oks[others.ids == person_id][0]:.2f}"


def card_rows(run: RunContents) -> list[tuple[str, str]]:
    """The card, for somebody who wants to repeat the run."""
    card, scoring = run.card, run.card["scoring"]
    unlabelled = card["unlabelled"]
    rows = [
        ("labelled", f"{card['labelled'].get('choice', '')} ({_ids(card['labelled'])})"),
        (
            "unlabelled",
            f"{unlabelled['people']:,} of {unlabelled['folder']} ({_ids(unlabelled)})"
            if unlabelled
            else "none",
        ),
        *_probe_row(card.get("probe")),
        ("scored", f"{card['val']['people']:,} of {card['val']['folder']} ({_ids(card['val'])})"),
        (
            "scored how",
            ", ".join(f"{key} {value}" for key, value in scoring.items() if key not in ("val", "people")),
        ),
        ("learning rate", str(card.get("learning_rate", "-"))),
        ("each labelled person was seen", f"{card.get('labelled_epochs', 0):,.0f} times"),
        ("published", str(card.get("published") or "none for this method and protocol")),
        ("changed on the way", ", ".join(str(change) for change in card.get("changes", ())) or "nothing"),
        ("versions", ", ".join(f"{name} {value}" for name, value in card["versions"].items())),
        ("hardware", f"{card.get('hardware', '-')}, {card.get('processes', 1)} processes"),
        (
            "all scores",
            ", ".join(
                f"{name} {100 * value:.1f}"
                for name, value in run.last.items()
                if value >= 0 and "/" not in name
            ),
        ),
        ("best step", f"{run.scores['best']['step']:,}"),
        ("folder", str(run.folder)),
    ]
    return rows


def _probe_row(probe: dict[str, Any] | None) -> list[tuple[str, str]]:
    """On which unlabelled photos the teacher was compared with hidden annotations, if it was."""
    if probe is None:
        return []
    return [
        ("teacher probed on", f"{probe['people']:,} unlabelled photos of {probe['folder']} ({_ids(probe)})")
    ]


def _ids(split: dict[str, Any]) -> str:
    return f"ids {split['ids_sha256'][:12]}"
