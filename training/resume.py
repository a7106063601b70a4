"""What may change when a run goes on, what may not, and the record of what did."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from configs.load import InputError
from configs.schema import plain
from training.files import CARD_NAME, read_json
from training.settings import RunSettings

FIXED = (
    *("seed", "protocol", "metric", "data", "views", "net", "evaluation", "heatmap.decode"),
    *("labelled_batch", "unlabelled_batch", "loader.shuffle_buffer"),
    *("method.name", "method.teacher.name", "method.layer"),
    *("method.second_net", "method.teacher_net", "method.second_teacher_net"),
)
"""Settings, and groups of them, that stay within a run: who is trained on and scored, and how they are
scored, so that one table of scores holds one thing; and those without which a checkpoint cannot be read."""
PLACES = ("data.train", "data.val", "data.unlabelled")
"""Addresses of shards, which may move: what they hold is compared instead."""
ROLES = {"labelled": "trained on with labels", "unlabelled": "trained on without labels", "val": "scored"}
"""What the people of a card's entry are there for."""
LONGEST = 60


@dataclass(frozen=True)
class Change:
    """A setting, by its dotted name, that differs from what the run had, as plain values."""

    setting: str
    was: Any
    now: Any


@dataclass(frozen=True)
class Changes:
    """What differs between the settings of a run and those that it is to go on with."""

    refused: tuple[Change, ...]
    recorded: tuple[Change, ...]


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The settings of a run (`runs.read_settings`) that differ from others (`schema.plain`).

    `output` is left out: a folder may be moved. Of a plug-in that was exchanged its name alone counts.
    """
    return [each for each in _compare(was, now) if each.setting != "output"]


def compare_settings(was: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Which of the `differences` between a run and what it is to go on with may not be, and which may."""
    changes = differences(was, now)
    refused = tuple(each for each in changes if _is_refused(each))
    return Changes(refused, tuple(each for each in changes if each not in refused))


class Resumed:
    """A run that goes on: what its folder says that it was so far, and what is changed now."""

    def __init__(self, cfg: RunSettings, was: Mapping[str, Any]) -> None:
        """Compare `cfg` with the settings that the run had (`runs.read_settings` of its folder).

        Raises InputError for changes that are not allowed within a run.
        """
        folder = Path(cfg.output)
        self.changes = compare_settings(was, plain(cfg))
        if self.changes.refused:
            refused = (
                f"{each.setting} was {_text(each.was)} and is {_text(each.now)}"
                for each in self.changes.refused
            )
            raise InputError(
                f"{folder}: {', '.join(refused)}: this cannot change within a run: leave it as it was, or "
                "start a new run with another output="
            )
        self.card: dict[str, Any] = {}
        if (folder / CARD_NAME).is_file():
            self.card = read_json(
                folder / CARD_NAME, cure="remove it, and the run goes on without its record"
            )

    def refuse_other_people(self, card: Mapping[str, Any]) -> None:
        """Compare the people of the run with those in the card of the run as it is to go on.

        Raises InputError where they are others, whether a setting names another folder or the folder was
        built anew. A card of an older version does not say what the folders held: then the scored people must
        have their old address, and the data streams compare those that are trained on.
        """
        for role, purpose in ROLES.items():
            was, now = self.card.get(role), card[role]
            if was is None or now is None:
                continue
            known = [key for key in ("content_sha256", "samples_sha256") if key in was]
            key = known[0] if known else "folder"
            if was[key] == now[key] or (not known and role != "val"):
                continue
            moved = f"they were in {was['folder']} and are in {now['folder']}"
            cause = moved if was["folder"] != now["folder"] else f"{now['folder']} was built anew"
            others = ", or score the others with evaluate.py" if role == "val" else ""
            raise InputError(
                f"data: the people who are {purpose} are not those of the run so far ({cause}): go on with "
                f"those, or start a new run with another output={others}"
            )

    def record(self, step: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
        """The list `changes` of the run's card when it goes on from `step`; tells `say` what is new in it.

        Each entry has a setting, its values before and after, and the last step that had the former one. A
        run that falls back to an older checkpoint has had its later changes since then.
        """
        for each in self.changes.recorded:
            if each.setting in PLACES:
                say(f"{each.setting} moved from {each.was} to {each.now}, which holds the same people")
        settings = [each for each in self.changes.recorded if each.setting not in PLACES]
        new = [{"step": step, **asdict(each)} for each in settings]
        if new:
            say(f"changed {in_words(new)}")
        if any(each.setting == "steps" for each in settings):
            say(
                "note: the schedule of the learning rate, burn_in and ramp_up are shares of the run, so a "
                "run whose `steps` changed on the way is not the run that had as many from the start"
            )
        entries = [{**each, "step": min(each["step"], step)} for each in self.card.get("changes", ())]
        # A run that was killed between the card and the recipe notes the same change again.
        return [*entries, *(each for each in new if each not in entries)]


def in_words(record: Sequence[Mapping[str, Any]]) -> str:
    """Changes as `since step 12: optim.lr 0.001 to 0.00001, precision no to bf16`."""
    by_step: dict[int, list[str]] = {}
    for each in record:
        words = f"{each['setting']} {_text(each['was'])} to {_text(each['now'])}"
        by_step.setdefault(each["step"], []).append(words)
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
    """Whether it is a list whose elements are compared one by one; plain numbers are reported together."""
    return isinstance(value, list) and any(isinstance(each, list | Mapping) for each in value)


def _is_refused(change: Change) -> bool:
    if change.setting in PLACES:
        return change.was is None or change.now is None
    return any(f"{change.setting}.".startswith(f"{name}.") for name in FIXED)


def _text(value: Any) -> str:
    """A value in a sentence; numbers without an exponent."""
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
