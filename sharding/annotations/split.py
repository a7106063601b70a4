"""A train and a val set from one annotation file: which photos fall to which side."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Annotated, Literal

from pydantic import Field

from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.sharding.annotations.findings import Fault
from semipose.sharding.annotations.record import Annotations, Person, photo_key

Side = Literal["train", "val"]
Group = Literal["photo", "folder", "sequence"]

_SIDES: tuple[Side, Side] = ("train", "val")
_FOLDER = re.compile(r"[^/]*$")
_ENDING = re.compile(r"\.[^./]*$")
# Copies of one photo: Roboflow's clip_3_jpg.rf.8f1c0b.jpg, clip_3_aug1.jpg, "clip_3 - Copy (2).jpg".
_ROBOFLOW = re.compile(r"(?:_(jpe?g|png|bmp|webp|tiff?))*\.rf\.[0-9a-z]{6,}(\.[^./]*)?$", re.IGNORECASE)
_COPY = re.compile(
    r"(?:(?: - (?:copy|kopie|copie|copia)|_copy| copy)(?: ?\d+| ?\(\d+\))?"
    r"|[_-]aug\d+|_aug_\d+|_augmented_?\d*"
    r"|[_-][hv]?flip(?:ped)?|[_-]mirror(?:ed)?|[_-]rot(?:ated?)?[_-]?(?:90|180|270))+(\.[^./]*)?$",
    re.IGNORECASE,
)
_COPY_OF = re.compile(r"(^|/)Copy of ", re.IGNORECASE)
# What tools write before a frame's number (Label Studio: daa66d13-clip_3.jpg) and after it.
_DATE = r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_LABEL_STUDIO = re.compile(rf"(^|/)(?!{_DATE})[0-9a-f]{{8}}-(?=[^/]+$)")
_AFTER_NUMBER = re.compile(
    r"(?:(?<=\d)(?:[ _-](?:left|right)|[ _-]?of[ _-]?\d+|[ _-]\d{2,5}x\d{2,5}|[ _@-]\d{1,4}(?:p|x|fps)"
    r"|[ _-](?:cam|camera|view|crop|person|object|track)[ _-]?\d{1,3})+"
    r"|(?:(?<=\d{9})|(?<=\d\d[-_.:]\d\d[-_.:]\d\d))[.,]\d{1,9})$",  # the last: parts of a second
    re.IGNORECASE,
)
# A time of which the last number alone would be a second: clip_3.50, 2024-05-01_12-00-03, 12:00:03, 1m03s.
_TIME = re.compile(
    r"(?:(?<=(?:19|20)\d\d[-_.]\d\d[-_.]\d\d)(?:[ _T-]| at )"
    r"\d{1,2}[-_.:h]\d\d[-_.:m]\d\ds?(?:[.,_-]?\d{1,9})?"
    r"|(?<!\d)\d{1,2}:\d\d:\d\d(?:[.,]\d+)?"
    r"|(?<!\d)(?:\d{1,2}h)?\d{1,3}m\d{1,2}s"
    r"|(?<=[ _-])\d+[.,]\d{1,3}s?)(?:Z| ?[AP]M)?$"
)
_HEXADECIMAL = re.compile(r"(?<![0-9a-z])0[0-9a-f]{3,5}$", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"\d+(?=[^\d/]*$)")
_HASH_BYTES = 8
_ALONE = {
    "sequence": Fault(
        "photo that is a sequence of its own, though split.group=sequence",
        "kept",
        "name the frames of a clip alike except for their number (clip7_0001.jpg), or put each clip into a "
        "folder and give split.group=folder; otherwise frames of one clip can be on both sides",
        "photo",
    ),
    "folder": Fault(
        "photo that is alone in its folder, though split.group=folder",
        "kept",
        "put photos that belong together into one folder; otherwise they can be on both sides",
        "photo",
    ),
}


@settings
class TrainValSplit:
    """Divides the photos of one annotation file, all people of a photo together.

    The file name of a photo and the seed decide alone, so photos that are added later move no other one.
    """

    take: Side
    """The side to build; build both with otherwise equal values, each into its own output."""
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the photos (or groups) that go to val, on average; with few of them it can differ a lot."""
    seed: int = 0
    """Seed of the division."""
    group: Group = "photo"
    """What is never divided: `photo` (with the copies that a tool made of it, such as
    clip_0001_jpg.rf.8f1c.jpg), `folder` (all photos of a folder), or `sequence` (photos of a folder whose
    names differ only in their last number, such as the frames clip7_0001.jpg and clip7_0002.jpg; what tools
    add to a name does not count)."""

    def group_of(self, file_name: str) -> str:
        """The name of the group that a photo belongs to, however its own name is spelt."""
        name = photo_key(file_name)
        if self.group == "folder":
            return _FOLDER.sub("", name)
        photo = _photo_of(name)
        return _sequence_of(photo) if self.group == "sequence" else photo

    def side_of(self, file_name: str) -> Side:
        """The side that a photo falls to."""
        digest = hashlib.sha256(f"{self.seed}/{self.group_of(file_name)}".encode()).digest()
        place = int.from_bytes(digest[:_HASH_BYTES], "big") / 256**_HASH_BYTES
        return "val" if place < self.val_share else "train"


def _photo_of(name: str) -> str:
    """The photo that a tool made a copy of, plain or augmented; any other name as it is."""
    name = _ROBOFLOW.sub(lambda found: f".{found[1]}" if found[1] else found[2] or "", name)
    return _COPY.sub(r"\1", _COPY_OF.sub(r"\1", name))


def _sequence_of(name: str) -> str:
    """A name without its ending, its last number and what tools add."""
    name, before = _LABEL_STUDIO.sub(r"\1", _ENDING.sub("", name)), ""
    while name != before:
        name, before = _AFTER_NUMBER.sub("", name), name
    for pattern in (_TIME, _HEXADECIMAL):
        if found := pattern.search(name):
            return name[: found.start()]
    return _LAST_NUMBER.sub("", name)


@dataclass(frozen=True, kw_only=True)
class SideCount:
    """What fell to one side: the people (samples, before a limit), and the photos and groups with some."""

    groups: int
    photos: int
    people: int


@dataclass(frozen=True, kw_only=True)
class GroupSizes:
    """How many photos with people the groups of both sides hold, and how many groups hold one alone."""

    median: float
    largest: int
    alone: int


@dataclass(frozen=True, kw_only=True)
class SplitCard:
    """How photos were divided (see `TrainValSplit`) and what fell to each side, for the manifest.

    sizes: of the groups; None in manifests from before it was counted.
    """

    take: Side
    val_share: float
    seed: int
    group: Group
    train: SideCount
    val: SideCount
    sizes: GroupSizes | None = None

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

    The findings stay those of the whole file; one is added where most groups hold a single photo. Raises
    InputError where no person falls to one of the sides, unless the file has none at all.
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
    photos = dict.fromkeys(person.file_name for person in annotations.persons)
    sizes = Counter(map(split.group_of, photos))
    card = SplitCard(**asdict(split), train=counts["train"], val=counts["val"], sizes=_sizes(sizes.values()))
    _refuse_empty(card, annotations)
    alone = [name for name in photos if sizes[split.group_of(name)] == 1]
    if split.group != "photo" and len(alone) > len(sizes) / 2:
        for name in alone:
            annotations.findings.add(_ALONE[split.group], name)
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
    told = f"split by {card.group} (val_share {card.val_share:g}, seed {card.seed}): {'; '.join(sides)}"
    sizes = card.sizes
    if sizes is None or (sizes.largest < 2 and card.group == "photo"):
        return told
    return (
        f"{told}; groups hold {sizes.median:g} photos in the median, {sizes.largest:,} at most; "
        f"{sizes.alone:,} {'holds' if sizes.alone == 1 else 'hold'} a single one"
    )


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def _count(people: Sequence[Person], split: TrainValSplit) -> SideCount:
    names = {person.file_name for person in people}
    return SideCount(
        groups=len({split.group_of(name) for name in names}), photos=len(names), people=len(people)
    )


def _sizes(photos: Iterable[int]) -> GroupSizes:
    counts = list(photos) or [0]
    return GroupSizes(median=median(counts), largest=max(counts), alone=counts.count(1))


def _refuse_empty(card: SplitCard, annotations: Annotations) -> None:
    groups = card.train.groups + card.val.groups
    cure = "give another split.val_share or split.seed"
    if groups == 1 and card.group != "photo":
        cure = (
            "take val from another recording, or put each clip or person into a folder and give "
            "split.group=folder; split.group=photo is for photos of which no two show the same scene"
        )
    for side in _SIDES:
        if annotations.persons and not getattr(card, side).people:
            raise InputError(
                f"{annotations.findings.file}: nobody is on the {side} side of the split "
                f"(split.val_share={card.val_share:g}, split.seed={card.seed}) of "
                f"{groups} {_plural(card.group, groups)} with people: {cure}"
            )
