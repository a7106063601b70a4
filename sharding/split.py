"""A train and a val set from one annotation file: which photos fall to which side."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from configs.load import InputError
from configs.settings import settings
from sharding.record import Annotations, Person

Side = Literal["train", "val"]
Group = Literal["photo", "folder", "sequence"]

_SIDES: tuple[Side, Side] = ("train", "val")
_FOLDER = re.compile(r"[^/]*$")
_NUMBER_AND_ENDING = re.compile(r"[0-9]*(\.[^./]*)?$")
_HASH_BYTES = 8


@settings
class TrainValSplit:
    """Divides the photos of one annotation file, all people of a photo together.

    The file name of a photo and the seed decide alone, so photos that are added later move no other one.
    """

    take: Side
    """The side to build; build both, with otherwise equal values, each into an output of its own."""
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the photos (of the groups) that falls to val, on average: of few it can be far from this."""
    seed: int = 0
    """Another seed is another division."""
    group: Group = "photo"
    """What is never divided: photo (each stands for itself), folder (all photos of one), sequence (photos
    whose names differ only in the number at their end, as frames do: clip7_0001.jpg, clip7_0002.jpg)."""

    def group_of(self, file_name: str) -> str:
        """The name of the group that a photo belongs to."""
        if self.group == "folder":
            return _FOLDER.sub("", file_name)
        return _NUMBER_AND_ENDING.sub("", file_name, count=1) if self.group == "sequence" else file_name

    def side_of(self, file_name: str) -> Side:
        """The side that a photo falls to."""
        digest = hashlib.sha256(f"{self.seed}/{self.group_of(file_name)}".encode()).digest()
        place = int.from_bytes(digest[:_HASH_BYTES], "big") / 256**_HASH_BYTES
        return "val" if place < self.val_share else "train"


@dataclass(frozen=True, kw_only=True)
class SideCount:
    """What fell to one side: the people (samples, before a limit), and the photos and groups with some."""

    groups: int
    photos: int
    people: int


@dataclass(frozen=True, kw_only=True)
class SplitCard:
    """How photos were divided (see `TrainValSplit`) and what fell to each side, for the manifest."""

    take: Side
    val_share: float
    seed: int
    group: Group
    train: SideCount
    val: SideCount

    @property
    def division(self) -> tuple[float, int, Group]:
        """What decides who falls where."""
        return self.val_share, self.seed, self.group

    @property
    def num_people(self) -> int:
        """People of both sides."""
        return self.train.people + self.val.people


def take_side(annotations: Annotations, split: TrainValSplit | None) -> tuple[Annotations, SplitCard | None]:
    """The annotations of the photos on the side that `split` takes, and the card; without it all of them.

    The findings stay those of the whole file. Raises InputError where no person falls to one of the sides,
    unless the file has none at all.
    """
    if split is None:
        return annotations, None
    names = {person.image_id: person.file_name for person in annotations.persons}
    names |= {photo.id: photo.file_name for photo in annotations.empty_photos}
    sides = {image_id: split.side_of(name) for image_id, name in names.items()}
    persons: dict[Side, list[Person]] = {"train": [], "val": []}
    for person in annotations.persons:
        persons[sides[person.image_id]].append(person)
    counts = {side: _count(people, split) for side, people in persons.items()}
    card = SplitCard(**asdict(split), train=counts["train"], val=counts["val"])
    _refuse_empty(card, annotations)
    taken = {image_id for image_id, side in sides.items() if side == split.take}
    annotated = annotations.annotated
    if annotated is not None:
        annotated = tuple(person for person in annotated if person.image_id in taken)
    of_side = replace(
        annotations,
        persons=tuple(persons[split.take]),
        empty_photos=tuple(photo for photo in annotations.empty_photos if photo.id in taken),
        ignored=tuple(row for row in annotations.ignored if row["image_id"] in taken),
        annotated=annotated,
        photo_facts={id: facts for id, facts in annotations.photo_facts.items() if id in taken},
    )
    return of_side, card


def describe_split(card: SplitCard) -> str:
    """`split by photo (val_share 0.2, seed 0): train 640 photos, 901 people; val (taken) ...`."""
    sides = []
    for side in _SIDES:
        count: SideCount = getattr(card, side)
        groups = "" if card.group == "photo" else f"{count.groups:,} {_plural(card.group, count.groups)}, "
        photos = f"{count.photos:,} {_plural('photo', count.photos)}"
        taken = " (taken)" if side == card.take else ""
        sides.append(f"{side}{taken} {groups}{photos}, {count.people:,} people")
    return f"split by {card.group} (val_share {card.val_share:g}, seed {card.seed}): {'; '.join(sides)}"


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def _count(people: Sequence[Person], split: TrainValSplit) -> SideCount:
    names = {person.file_name for person in people}
    return SideCount(
        groups=len({split.group_of(name) for name in names}), photos=len(names), people=len(people)
    )


def _refuse_empty(card: SplitCard, annotations: Annotations) -> None:
    groups = card.train.groups + card.val.groups
    cure = "give another split.val_share or split.seed"
    if groups == 1 and card.group != "photo":
        cure = "give split.group=photo"
    for side in _SIDES:
        if annotations.persons and not getattr(card, side).people:
            raise InputError(
                f"{annotations.findings.file}: nobody falls to the {side} side of the split "
                f"(split.val_share={card.val_share:g}, split.seed={card.seed}) of "
                f"{groups} {_plural(card.group, groups)} with people: {cure}"
            )
