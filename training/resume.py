"""Which settings may change when a run is resumed, which may not, and the record of the changes."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from semipose.configs.load import InputError
from semipose.configs.schema import plain
from semipose.models.files import CARD_NAME, read_json
from semipose.training.settings import RunSettings

FIXED = (
    *(
        "seed",
        "protocol",
        "metric",
        "data",
        "views",
        "photo_views",
        "net",
        "codec",
        "evaluation",
        "heatmap.decode",
    ),
    *("labelled_batch", "unlabelled_batch", "loader.shuffle_buffer"),
    *("method.name", "method.teacher.name", "method.layer"),
    *("method.thresholds.name", "method.thresholds.length"),
    *("method.second_net", "method.teacher_net", "method.second_teacher_net"),
)
"""Settings, and groups of them, that must not change within a run: the people and how they are scored, so
that all scores of the run are comparable, and those without which a checkpoint cannot be read."""
ADDRESSES = re.compile(r"data\.(train|val|unlabelled|sources\.\d+\.shards)")
"""Settings that are addresses of shards, which may move; their contents are compared instead."""
ROLES = {"labelled": "trained on with labels", "unlabelled": "trained on without labels", "val": "scored"}
"""What the people of a card's entry are used for."""
LONGEST = 60


@dataclass(frozen=True)
class Change:
    """A setting, by its dotted name, with its values before and after, as plain values."""

    setting: str
    was: Any
    now: Any


@dataclass(frozen=True)
class Changes:
    """The differences between the settings of a run and those with which it is resumed."""

    refused: tuple[Change, ...]
    recorded: tuple[Change, ...]


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The settings in which a run (`run_files.read_settings`) differs from others (`schema.plain`).

    `output` is left out, because a folder may be moved. If a plug-in was exchanged, only its name is
    compared.
    """
    return [change for change in _compare(was, now) if change.setting != "output"]


def compare_settings(was: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """The `differences` between a run and the settings to resume it with: refused and allowed ones."""
    changes = differences(was, now)
    refused = tuple(change for change in changes if _is_refused(change))
    return Changes(refused, tuple(change for change in changes if change not in refused))


class Resumed:
    """A resumed run: what its folder says about it so far, and what changes now."""

    def __init__(self, cfg: RunSettings, was: Mapping[str, Any]) -> None:
        """Compare `cfg` with the settings that the run had (`run_files.read_settings` of its folder).

        Raises InputError for changes that are not allowed within a run.
        """
        folder = Path(cfg.output)
        self.changes = compare_settings(was, plain(cfg))
        if self.changes.refused:
            refused = (
                f"{change.setting} was {_text(change.was)} and is {_text(change.now)}"
                for change in self.changes.refused
            )
            raise InputError(
                f"{folder}: {', '.join(refused)}: this cannot change within a run: leave it as it was, or "
                "start a new run with another output="
            )
        self.card: dict[str, Any] = {}
        if (folder / CARD_NAME).is_file():
            self.card = read_json(
                folder / CARD_NAME, cure="remove it, and the run continues without its record"
            )

    def refuse_other_people(self, card: Mapping[str, Any]) -> None:
        """Compare the people of the run so far with those in the card of the resumed run.

        Raises InputError if they differ, because a setting names another folder or because the folder was
        built again. A card of an older version does not say what the folders held; then the scored people
        must have their old address, and the data streams compare the people that are trained on.
        """
        parts = [(role, purpose, self.card.get(role), card[role]) for role, purpose in ROLES.items()]
        sources = zip(self.card.get("sources", ()), card["sources"], strict=False)
        parts += [("source", "trained on as a source", *each) for each in sources]
        for role, purpose, was, now in parts:
            if was is None or now is None:
                continue
            known = [key for key in ("content_sha256", "samples_sha256") if key in was]
            key = known[0] if known else "folder"
            if was[key] == now[key] or (not known and role != "val"):
                continue
            moved = f"they were in {was['folder']} and are in {now['folder']}"
            cause = moved if was["folder"] != now["folder"] else f"{now['folder']} was built again"
            others = ", or score the others with `semipose evaluate`" if role == "val" else ""
            raise InputError(
                f"data: the people who are {purpose} are not those of the run so far ({cause}): continue "
                f"with the former ones, or start a new run with another output={others}"
            )

    def record(self, step: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
        """The list `changes` of the card of a run that is resumed from `step`; `say` takes what is new in it.

        Each entry has a setting, its values before and after, and the last step with the former value. If a
        run falls back to an older checkpoint, its later changes count from that one.
        """
        for change in self.changes.recorded:
            if ADDRESSES.fullmatch(change.setting):
                say(f"{change.setting} moved from {change.was} to {change.now}, which holds the same people")
        settings = [change for change in self.changes.recorded if not ADDRESSES.fullmatch(change.setting)]
        new = [{"step": step, **asdict(change)} for change in settings]
        if new:
            say(f"changed {in_words(new)}")
        if any(change.setting == "steps" for change in settings):
            say(
                "note: the schedule of the learning rate, burn_in and ramp_up are shares of the run, so a "
                "run whose `steps` changed differs from one that had as many from the start"
            )
        entries = [{**entry, "step": min(entry["step"], step)} for entry in self.card.get("changes", ())]
        # A run that was killed between writing the card and the recipe records the same change again.
        return [*entries, *(entry for entry in new if entry not in entries)]


def in_words(record: Sequence[Mapping[str, Any]]) -> str:
    """Changes as `since step 12: optim.lr 0.001 to 0.00001, precision no to bf16`."""
    by_step: dict[int, list[str]] = {}
    for entry in record:
        words = f"{entry['setting']} {_text(entry['was'])} to {_text(entry['now'])}"
        by_step.setdefault(entry["step"], []).append(words)
    return "; ".join(f"since step {step}: {', '.join(words)}" for step, words in by_step.items())


def _compare(was: Any, now: Any, name: str = "") -> Iterator[Change]:
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        is_exchanged = was.get("name") != now.get("name")
        for key in ("name",) if is_exchanged else {**was, **now}:
            yield from _compare(was.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif _holds_settings(was) and _holds_settings(now) and len(was) == len(now):
        for index, pair in enumerate(zip(was, now, strict=True)):
            yield from _compare(*pair, f"{name}.{index}")
    elif was != now:
        yield Change(name, was, now)


def _holds_settings(value: Any) -> bool:
    """Whether it is a list whose elements are compared one by one; plain lists are reported whole."""
    return isinstance(value, list) and any(isinstance(element, list | Mapping) for element in value)


def _is_refused(change: Change) -> bool:
    if ADDRESSES.fullmatch(change.setting):
        return change.was is None or change.now is None
    return any(f"{change.setting}.".startswith(f"{name}.") for name in FIXED)


def _text(value: Any) -> str:
    """A value in a sentence; numbers without an exponent."""
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
