"""What a page shows of a run, read back from its folder alone: no shards, no network, no loader."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from semipose.configs.load import InputError
from semipose.models.files import CARD_NAME, read_json
from semipose.sharding.store.manifest import MANIFEST_NAME
from semipose.training.reporting.people import ScoredPeople, read_people
from semipose.training.run_files import CURE, binned, read_metrics, read_scores, read_settings

SUPERVISED = "supervised"


@dataclass(frozen=True)
class RunContents:
    """One scored run."""

    folder: Path
    settings: dict[str, Any]
    card: dict[str, Any]
    scores: dict[str, Any]
    """As in scores.json."""
    rows: list[dict[str, Any]]
    """The lines of metrics.jsonl."""
    people: ScoredPeople | None
    """Those of the last scoring; None for a run of an older version."""

    @property
    def name(self) -> str:
        """How the page calls the run."""
        return self.folder.resolve().name

    @property
    def metric(self) -> str:
        """The score by which the run chose its best step."""
        return str(self.scores["metric"])

    @property
    def product(self) -> str:
        """The network that the run is for."""
        return str(next(iter(self.scores["last"]["scores"])))

    @property
    def last(self) -> dict[str, float]:
        """The scores of the product at the last scoring, in 0..1."""
        return dict(self.scores["last"]["scores"][self.product])

    @property
    def step(self) -> int:
        """The step of the last scoring."""
        return int(self.scores["last"]["step"])

    @property
    def steps(self) -> int:
        """The steps of the whole run."""
        return int(self.settings["steps"])

    @property
    def num_unlabelled(self) -> int:
        """Unlabelled people or photos; 0 for a run that uses none."""
        return int(self.card["unlabelled"]["people"]) if self.card["unlabelled"] else 0

    @property
    def num_labelled(self) -> int:
        """Labelled people or photos."""
        return int(self.card["labelled"]["people"])

    @property
    def samples(self) -> str:
        """What a sample is, in the plural."""
        return "photos" if self.card["scoring"]["boxes"] == "none" else "people"

    @cached_property
    def score_curve(self) -> dict[int, float]:
        """The run's own metric of the product in percent, by step."""
        curve = {
            row["step"]: row["scores"][self.product].get(self.metric, -1) for row in self.scores["history"]
        }
        return {step: 100 * value for step, value in curve.items() if value >= 0}

    def curve(self, term: str) -> dict[int, float]:
        """A term of metrics.jsonl by step, averaged over parts of the run; empty without such a term."""
        values = {row["step"]: row[term] for row in self.rows if row.get(term) is not None}
        return binned(values, self.steps)

    def terms(self, prefix: str) -> list[str]:
        """The names of the terms that begin so, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row if name.startswith(prefix)))


def read_contents(folder: Path) -> RunContents:
    """Read a run that was scored at least once. Raises InputError if it was not, or if a file is damaged."""
    settings, scores = read_settings(folder), read_scores(folder)
    if not scores:
        raise InputError(f"{folder}: the run has not been scored yet: wait for its first scoring")
    card = read_json(folder / CARD_NAME, cure=CURE)
    try:
        _ = card["labelled"]["people"], card["val"]["ids_sha256"], card["scoring"]["boxes"], card["steps"]
        contents = RunContents(folder, settings, card, scores, read_metrics(folder), _people(folder, scores))
        _ = contents.num_unlabelled, contents.last
    except (LookupError, TypeError) as error:
        raise InputError(
            f"{folder / CARD_NAME}: the page needs {error}, which is not there: the run is of an older "
            "version, train it again"
        ) from None
    return contents


def _people(folder: Path, scores: dict[str, Any]) -> ScoredPeople | None:
    """The people of the last scoring, as the run or a later evaluation kept them."""
    for place in (folder, folder / "evaluation"):
        people = read_people(place)
        if people is not None and people.step == scores["last"]["step"]:
            return people
    return None


def find_baseline(run: RunContents) -> RunContents | None:
    """The supervised run beside `run` that shows what its unlabelled people gave; None if there is none.

    It has the same labelled and scored people and as many steps; of several, the one with the same seed or
    the first by name.
    """
    if not run.num_unlabelled:
        return None
    candidates = []
    for card_path in sorted(run.folder.resolve().parent.glob(f"*/{CARD_NAME}")):
        try:
            other = read_contents(card_path.parent)
        except InputError:
            continue
        is_alike = other.step == other.steps == run.steps and not differences(run, other)
        if other.settings["method"]["name"] == SUPERVISED and is_alike:
            candidates.append(other)
    return min(candidates, key=lambda other: other.settings["seed"] != run.settings["seed"], default=None)


def differences(run: RunContents, other: RunContents) -> list[str]:
    """In words, what besides the method differs between two runs, so that their scores mean less."""
    found = []
    for what, key in (("labelled people", "labelled"), ("scored people", "val")):
        if run.card[key]["ids_sha256"] != other.card[key]["ids_sha256"]:
            found.append(f"the {what} ({other.card[key]['people']:,} against {run.card[key]['people']:,})")
    if run.card["scoring"]["boxes"] != other.card["scoring"]["boxes"]:
        found.append("the boxes in which people are scored")
    if run.steps != other.steps:
        found.append(f"the steps ({other.steps:,} against {run.steps:,})")
    named = {"net": "the network", "views": "the views", "labelled_batch": "the labelled people per step"}
    found += [words for key, words in named.items() if _size(run, key) != _size(other, key)]
    return found


def _size(run: RunContents, key: str) -> Any:
    """What of a group of settings decides how well a network can do; views are drawn as the method needs."""
    value = run.settings[key]
    return value["size_hw"] if key == "views" else value


@dataclass(frozen=True)
class DataNote:
    """What the check of a set of shards said: the set, and each fault with its count and what was done."""

    role: str
    folder: str
    faults: Sequence[tuple[str, ...]]
    """(effect, what, count, cure)."""
    has_check: bool
    """Whether `check=only` was run; else the faults are those that the build itself counted."""


def data_notes(run: RunContents) -> list[DataNote]:
    """What is known of the annotations behind the run: from `SHARDS.check.json`, the card, or the shards."""
    notes: list[DataNote] = []
    for role in ("labelled", "unlabelled", "val"):
        split = run.card[role]
        if split is None or split["folder"] in [note.folder for note in notes]:
            continue
        folder = Path(split["folder"])
        checked = _json(folder.with_name(f"{folder.name}.check.json"))
        if "faults" in checked:
            keys = ("effect", "fault", "count", "cure")
            faults = [tuple(str(row.get(key, "")) for key in keys) for row in checked["faults"]]
            notes.append(DataNote(role, str(folder), faults, has_check=True))
            continue
        counted = {key: split[key] for key in ("dropped", "problems") if key in split}
        counted = counted or _json(folder / MANIFEST_NAME)
        faults = [
            (effect, what, f"{count:,}", "")
            for effect, key in (("dropped", "dropped"), ("noted", "problems"))
            for what, count in counted.get(key, {}).items()
        ]
        notes.append(DataNote(role, str(folder), faults, has_check=False))
    return notes


def _json(path: Path) -> dict[str, Any]:
    """The content of a file; empty if it cannot be read, as with shards that are elsewhere."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
