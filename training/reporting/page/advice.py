"""The sentences of a page: did the unlabelled people help, where does the network err, what to do next."""

import itertools
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from semipose.configs.words import listed
from semipose.models.files import RECIPE_NAME
from semipose.training.methods import METHODS
from semipose.training.reporting.collapse import is_untrained, teach_later
from semipose.training.reporting.page.contents import DataNote, RunContents, differences
from semipose.training.reporting.page.diagnosis import Change, Confidence, Keypoints
from semipose.training.run_files import parent_of

SHARE_SWAPPED = 0.05
"""Above this share of keypoints that are swapped, the labels or flip pairs are worth a look."""
MOST_EPOCHS = 250
"""Labelled people who were seen more often than this may be known by heart."""
FEW_TRUSTED, MOST_TRUSTED = 0.2, 0.5
"""Below the first share of pseudo labels that count, they teach little; above the second, a higher threshold
still leaves some."""
LOW_PEAK = 0.4
"""A teacher whose mean peak is lower knows little of what it teaches."""
STILL_RISING = 0.5
"""A score that gained as many points since the scoring before the last is still rising."""
FALLING = 1.0
SEMI_SUPERVISED = {
    "people": "{name: single, teacher: {name: ema, momentum: 0.99}, mixup: {layers: [input, head]}, "
    "burn_in: 0.3, ramp_up: 0.1, labels: keypoints, min_peak: 0.3}",
    "photos": "{name: detector_free}",
}
"""A method that learns from unlabelled samples, by what a sample is; for people that of `semipose init`."""


@dataclass(frozen=True)
class Answer:
    """The answer to one of a reader's questions: a word or two, then sentences."""

    question: str
    headline: str
    tone: str
    """good, bad or neutral."""
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """Something to do next: why, and the command if there is one."""

    text: str
    command: str = ""


def did_unlabelled_help(run: RunContents, baseline: RunContents | None, change: Change | None) -> Answer:
    """What the difference between the run and a baseline says, and how sure it is."""
    question = f"Did the unlabelled {run.samples} help?"
    if not run.num_unlabelled:
        text = f"This run was trained on its {run.num_labelled:,} labelled {run.samples} alone."
        return Answer(question, "None were used", "neutral", (text,))
    if baseline is None:
        text = (
            f"That takes a run with the same {run.num_labelled:,} labelled {run.samples} alone, and there "
            f"is none beside {run.folder} (with the same scored people and as many steps)."
        )
        return Answer(question, "Not known yet", "neutral", (text,))
    if baseline.num_unlabelled:
        question = f"Is it better than {baseline.name}?"
    gain = 100 * (run.last[run.metric] - baseline.last.get(run.metric, math.nan))
    scores = (
        f"{run.metric} {100 * run.last[run.metric]:.1f} against {100 * baseline.last[run.metric]:.1f} of "
        f"{baseline.name} ({gain:+.1f} points)."
    )
    sentences = [scores]
    other = differences(run, baseline)
    if other:
        sentences.append(
            f"The two runs also differ in {listed(other)}, so the difference is not that of the method alone."
        )
    is_sure = change is not None and not change.low <= 0 <= change.high
    if change is not None:
        sentences.append(
            f"Of {change.people:,} people, {change.better:,} are found better and {change.worse:,} worse "
            f"by more than 0.01 OKS; the mean OKS changes by {change.mean:+.3f} (95 % interval over photos "
            f"{change.low:+.3f} to {change.high:+.3f})."
        )
    same_seed = run.settings["seed"] == baseline.settings["seed"]
    seeds = f"Both runs have seed {run.settings['seed']}" if same_seed else "The runs have one seed each"
    sentences.append(
        f"{seeds}. The interval says how much the result depends on the people who are scored, not on the "
        "seed: with few labels, seeds alone can move a score by several points. Repeat both runs with "
        "other seeds before you rely on a small difference."
    )
    if change is not None and is_sure and change.mean * gain > 0:
        headline, tone = ("Yes", "good") if gain > 0 else ("No, it is worse", "bad")
    elif change is None and abs(gain) >= FALLING:
        headline, tone = ("It seems so", "good") if gain > 0 else ("It seems not", "bad")
    else:
        headline, tone = "No clear difference", "neutral"
    return Answer(question, headline, tone, tuple(sentences))


def where_it_errs(run: RunContents, keypoints: Keypoints | None, sure: Confidence | None) -> Answer:
    """Which keypoints fail and how, and whether the network knows."""
    question = "Where does it err?"
    people = run.people
    if people is None or keypoints is None:
        text = (
            "The run keeps no list of its people, because it is of an older version. The first command below "
            "writes one from its newest checkpoint."
        )
        return Answer(question, "Not known yet", "neutral", (text,))
    hits = keypoints.shares["good"] + keypoints.shares["near"]
    worst = keypoints.worst(3)
    sentences = []
    if worst:
        named = [f"{keypoints.names[k]} ({100 * hits[k]:.0f} %)" for k in worst]
        sentences.append(f"The keypoints that are found least often are {listed(named)}.")
    swapped = (keypoints.shares["left and right swapped"] * keypoints.counts).sum() / keypoints.counts.sum()
    elsewhere = (keypoints.shares["elsewhere"] * keypoints.counts).sum() / keypoints.counts.sum()
    sentences.append(
        f"Of all annotated keypoints, {100 * elsewhere:.0f} % are somewhere else and {100 * swapped:.0f} % "
        "at the same keypoint of the other side of the body."
    )
    missed = int((~people.is_found).sum())
    if run.samples == "photos" or missed:
        sentences.append(
            f"Of {len(people.ids):,} annotated people, {missed:,} were not found; "
            f"{len(people.false_scores):,} were found where nobody is annotated."
        )
    if sure is not None and not math.isnan(sure.spearman):
        sentences.append(_knows(sure))
    headline = listed([keypoints.names[k] for k in worst[:2]]) or "See below"
    return Answer(question, headline, "neutral", tuple(sentences))


def _knows(sure: Confidence) -> str:
    """Whether the network's peaks say who is wrong."""
    least = sure.tenths[0][1]
    words = (
        "It mostly knows when it is wrong"
        if sure.spearman >= 0.6
        else "It knows only in part when it is wrong"
        if sure.spearman >= 0.3
        else "It does not know when it is wrong"
    )
    return (
        f"{words}: the tenth of the people with the lowest peaks has a mean OKS of {least:.2f}, everybody "
        f"{sure.overall:.2f} (rank correlation {sure.spearman:.2f})."
    )


def next_steps(
    run: RunContents,
    baseline: RunContents | None,
    answer: Answer,
    keypoints: Keypoints | None,
    sure: Confidence | None,
    notes: list[DataNote],
) -> Iterator[Step]:
    """What is worth doing, most useful first."""
    word = _word(run.folder)
    if run.people is None:
        yield Step("Write the list of people that this page lacks.", f"semipose evaluate {word}")
    if run.step < run.steps:
        yield Step(
            f"The run is not finished: it was scored at step {run.step:,} of {run.steps:,}. Continue it.",
            f"semipose train --resume {word}",
        )
    yield from _about_the_baseline(run, baseline, answer)
    yield from _about_the_length(run)
    if keypoints is not None:
        yield from _about_labels(run, keypoints, sure)
    if any(not note.has_check for note in notes):
        yield Step(
            "No check of the annotations was found beside the shards. It lists faults and draws people "
            "with the names of their keypoints; look at that picture once.",
            "semipose shards RECIPE check=only",
        )
    yield Step("Find the keypoints of new photos.", f"semipose predict {word} PHOTOS")


def _about_the_baseline(run: RunContents, baseline: RunContents | None, answer: Answer) -> Iterator[Step]:
    if not run.num_unlabelled:
        data = run.settings["data"]
        own = f"all {run.samples} of {data['train']} without their labels, or those of data.unlabelled=SHARDS"
        which = f"those of {data['unlabelled']}" if data.get("unlabelled") else own
        yield Step(
            f"Let the unlabelled {run.samples} help: {which}. Then this page can say what they give.",
            _with_another_method(run, SEMI_SUPERVISED[run.samples], _free_folder(run, "semi-supervised")),
        )
    elif baseline is None:
        output = _free_folder(run, "supervised")
        yield Step(
            f"Train the same labelled {run.samples} alone, and write this page again, to see what the "
            "unlabelled ones give.",
            f"{_with_another_method(run, '{name: supervised}', output)}\n"
            f"semipose report {_word(run.folder)} {_word(f'against={output}')}",
        )
    else:
        if answer.tone == "bad" or answer.headline == "No clear difference":
            yield from _about_the_teacher(run)
        yield Step(
            "One seed says little with few labels: repeat both runs with seed=1 and seed=2 into folders of "
            "their own, and compare them seed by seed.",
            f"semipose compare {_word(parent_of(run.folder))} {_word(f'baseline={baseline.name}')}",
        )


def _with_another_method(run: RunContents, method: str, output: Path) -> str:
    """The command that trains as the run was trained, but by another method, so that both can be compared."""
    return f'semipose train {_word(run.folder / RECIPE_NAME)} "method={method}" {_word(f"output={output}")}'


def _free_folder(run: RunContents, name: str) -> Path:
    """A folder beside that of the run which is not there yet: `name`, or `name-2` and so on."""
    beside = parent_of(run.folder)
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(beside / each for each in names if not (beside / each).exists())


def _word(word: str | Path) -> str:
    """A word as a shell takes it, with spaces for instance."""
    return shlex.quote(str(word))


def _about_the_teacher(run: RunContents) -> Iterator[Step]:
    """What the teacher's terms say where the unlabelled people did not help."""
    options = next(method.options for method in METHODS if method.name == run.settings["method"]["name"])
    trusted = [run.curve(name) for name in run.terms("trusted_share")]
    peaks = [run.curve(name) for name in run.terms("teacher_peak")]
    last_trusted = [list(curve.values())[-1] for curve in trusted if curve]
    last_peaks = [list(curve.values())[-1] for curve in peaks if curve]
    later = teach_later(options, run.settings["net"])
    trusted_share = max(last_trusted, default=1.0)
    if trusted_share < FEW_TRUSTED:
        yield Step(
            f"Only {100 * trusted_share:.0f} % of the pseudo labels counted at the end, so the student "
            f"learned little from them. Lower {options.trust}, or {later}."
        )
    elif last_peaks and max(last_peaks) < LOW_PEAK:
        stricter = f" Raise {options.trust}, or" if trusted_share > MOST_TRUSTED else " You can"
        yield Step(
            f"The teacher's mean peak was only {max(last_peaks):.2f} at the end (1 is a perfect heatmap), "
            f"and {100 * trusted_share:.0f} % of its labels counted, so it taught what it did not know."
            f"{stricter} {later}."
        )
    else:
        yield Step(
            "The teacher looks healthy (the curves below), so the unlabelled people may need more steps "
            f"than the labelled ones alone, or smaller {options.weight}. Look at the views below: "
            "do the strong views still show what a person could label?"
        )


def _about_the_length(run: RunContents) -> Iterator[Step]:
    curve = list(run.score_curve.items())
    best_step, best = max(curve, key=lambda point: point[1], default=(0, 0.0))
    last = curve[-1][1] if curve else 0.0
    if best - last >= FALLING:
        yield Step(
            f"The score fell from {best:.1f} at step {best_step:,} to {last:.1f}: the run is too long for "
            "its labels, or the teacher became worse. Score the best checkpoint (the score of a chosen "
            "step flatters), and use fewer steps, a lower optim.lr or more labels.",
            f"semipose evaluate {_word(run.folder)} checkpoint=best",
        )
    elif len(curve) >= 2 and last - curve[-2][1] >= STILL_RISING and run.step == run.steps:
        yield Step(
            f"The score still rose by {last - curve[-2][1]:.1f} points between the last two scorings: more "
            "steps will probably give more.",
        )
    epochs = run.card.get("labelled_epochs", 0)
    late = [score for step, score in curve if step >= 2 / 3 * run.steps]
    if epochs > MOST_EPOCHS and late and max(late) - late[0] < STILL_RISING:
        yield Step(
            f"Each labelled person was seen {epochs:,.0f} times, and the score rose no more in the last "
            "third of the run: the network knows the labelled people by heart. More labels will help, "
            "more steps will not."
        )


def _about_labels(run: RunContents, keypoints: Keypoints, sure: Confidence | None) -> Iterator[Step]:
    total = keypoints.counts.sum()
    swapped = (keypoints.shares["left and right swapped"] * keypoints.counts).sum() / max(total, 1)
    if swapped > SHARE_SWAPPED:
        help_words = "More labels, more steps or pretrained weights help"
        if not is_untrained(run.settings["net"]):
            help_words = "More labels or more steps help"
        yield Step(
            f"{100 * swapped:.0f} % of the keypoints are found on the wrong side of the body, as networks "
            f"do that have seen few people. {help_words}. If you have these, check that left and right in "
            "your labels are the person's own in every photo: on the sheet of the check, left is orange and "
            "right is blue."
        )
    if sure is not None and sure.sure_but_wrong and run.people is not None:
        ids = ", ".join(str(run.people.ids[i]) for i in sure.sure_but_wrong[:8])
        more = f" and {len(sure.sure_but_wrong) - 8:,} more" if len(sure.sure_but_wrong) > 8 else ""
        yield Step(
            "The network is sure of these people and far from their annotations, so look at their labels "
            f"first: ids {ids}{more}."
        )
    worst = keypoints.worst(2)
    if worst:
        words = listed([keypoints.names[k] for k in worst])
        yield Step(
            f"If you can label more, see that {words} are in sight. From 100 to 150 labelled people, photos "
            "chosen at random taught more than those of which the network was unsure, so leave "
            "strategy=random out only when you have more.",
            f"semipose label next {_word(run.folder)} PHOTOS strategy=random",
        )
