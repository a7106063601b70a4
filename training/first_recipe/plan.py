"""What a first recipe says: counted from the annotations, with the reasons, and what to expect of it."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import Field
from rich.console import Console

from semipose.configs.load import InputError
from semipose.configs.schema import plain
from semipose.configs.settings import settings
from semipose.sharding.annotations.checks import inspect_people
from semipose.sharding.annotations.detector import PERSON, class_of
from semipose.sharding.annotations.findings import Findings
from semipose.sharding.annotations.formats.categories import READ_TOGETHER
from semipose.sharding.annotations.formats.coco import NO_KEYPOINTS
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat
from semipose.sharding.annotations.formats.folder import labelled_names
from semipose.sharding.annotations.formats.own_rows import OwnRows
from semipose.sharding.annotations.photos import IMAGE_SUFFIXES, Photos, open_photos
from semipose.sharding.annotations.record import Annotations
from semipose.sharding.annotations.split import TrainValSplit
from semipose.sharding.check.photo_check import survey_photos
from semipose.sharding.samples.crop import BOX_PADDING
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.files import write_atomic
from semipose.sharding.store.manifest import GROUND_TRUTH_NAME

HEIGHTS = (96, 128, 192, 256)
ENLARGED = 1.15
"""Views may be so many times as high as the median person."""
BATCH, MOST_SEEN, LEAST_STEPS, MOST_STEPS = 32, 250, 3000, 30_000


@dataclass(frozen=True)
class Measured:
    """A row of docs/results.md (2026-11-26): PCK@0.2 on Leeds Sports Pose Extended, one seed."""

    labels: int
    supervised: float
    semi_supervised: float
    how: str


MEASURED = (
    Measured(100, 37.7, 46.8, "Joint Cutout, at step 2,500 of 3,000"),
    Measured(500, 49.4, 54.4, "adaptive masks and Mixup, at step 2,000 of 3,000"),
)
ALL_LABELS = (4000, 63.2)
"""The number of labels with which the rows end, and the supervised score there."""


@settings
class ReadSettings(OwnRows):
    """How the annotations are read, if they differ from COCO's form: what faults in them advise to give."""

    name: Literal["coco-style"] = "coco-style"


@settings
class FirstRecipeSettings:
    """A first recipe."""

    source: ReadSettings = ReadSettings()
    """How the annotations are read, such as source.joint_boxes.use=missing, which the recipes say as well."""
    unlabelled: str | None = None
    """Photos without annotations: a folder or a zip file. A detector finds the people in them, unless it
    does not know their category; then each photo shows one. null: the photos beside the annotated ones in
    which nobody is labelled, if there are any."""
    output: str | None = None
    """The folder to write into; null: the name of the annotations without `.json`."""
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Which share of the annotated photos is scored, and not trained on."""


@dataclass(frozen=True)
class Plan:
    """What the recipe is made of, as counted from the annotations."""

    annotations: str
    photos: str
    unlabelled: str | None
    output: str
    people: int
    num_photos: int
    train: int
    val: int
    num_keypoints: int
    num_unlabelled: int | None
    """Unlabelled photos; None without any, or if they cannot be counted."""
    median_height: int
    """Of the people with the margin around them, in px."""
    size_hw: tuple[int, int]
    val_share: float
    how_read: Mapping[str, Any] = field(default_factory=dict)
    """What was given about how the annotations are read."""
    found: tuple[Findings, ...] = ()
    """The faults of the annotations, and absent photos."""
    thing: str = PERSON
    """The category of the annotations, or several that are read together."""
    detector_class: int | None = class_of(PERSON, ())
    """Its label by the default detector; None if that does not know such things."""

    @property
    def folder(self) -> Path:
        """Where the recipes are written."""
        return Path(self.output)

    @property
    def skeleton(self) -> str:
        """The file that describes the keypoints: the shards' own, if the annotations say it otherwise."""
        return f"{self.output}/shards/train/{GROUND_TRUTH_NAME}" if self.how_read else self.annotations

    @property
    def batch(self) -> int:
        """Labelled people per step."""
        return min(BATCH, self.train)

    @property
    def steps(self) -> int:
        """Enough for the unlabelled people, and with many labels so that each is seen MOST_SEEN times."""
        wanted = round(MOST_SEEN * self.train / self.batch / 100) * 100
        return min(max(LEAST_STEPS, wanted), MOST_STEPS)

    @property
    def times_seen(self) -> int:
        """How often each labelled person is seen."""
        return round(self.steps * self.batch / self.train)

    @property
    def sigma(self) -> float:
        """Of the Gaussians, in cells: about as wide a share of the view as the measured one."""
        return 1.5 if self.size_hw[0] <= 192 else 2.0


def make_plan(annotations: Path, photos: Path, cfg: FirstRecipeSettings) -> Plan:
    """Count what the recipe depends on. Raises InputError for annotations that cannot be used."""
    output = cfg.output or annotations.name.removesuffix(".gz").removesuffix(".json")
    open_or_say(str(photos), what=str(photos))
    source = CocoStyleFormat(annotations=annotations, images=str(photos), **vars(cfg.source))
    with np.errstate(all="ignore"):  # numbers that float32 cannot hold become findings
        read = source.read()
        inspect_people(read)
    read.findings.raise_errors()
    shards = BuildSettings(source=source, output=Path(output, "shards", "all"))
    survey = survey_photos(shards, read, console=Console(quiet=True), by_name=True)
    sides = _sides(read, cfg.val_share)
    if not any(sides.values()):
        raise _nobody_labelled(annotations, read)
    boxes = np.array([person.box_xywh for person in read.persons]).reshape(-1, 4)
    if not sides["train"] or not sides["val"]:
        raise InputError(
            f"{annotations}: {len(read.persons)} annotated people in too few photos to divide: annotate "
            "people in at least two photos, better in fifty, or choose another val_share"
        )
    usual = plain(ReadSettings())
    is_wide = float(np.median(boxes[:, 2] / np.maximum(boxes[:, 3], 1))) > 1
    aspect = 1.0 if is_wide else 3 / 4
    num_unlabelled = count_unlabelled(cfg.unlabelled or str(photos), read)
    if cfg.unlabelled and num_unlabelled == 0:
        raise InputError(
            f"unlabelled: all photos in {cfg.unlabelled} have labelled people: give others, or leave it out"
        )
    things = [
        *map(str, read.findings.ids(READ_TOGETHER) or cfg.source.category_names or [read.category_name])
    ]
    classes = {class_of(thing, read.skeleton.names) for thing in things}
    median = float(np.median(BOX_PADDING * np.maximum(boxes[:, 3], boxes[:, 2] / aspect)))
    height = max((each for each in HEIGHTS if each <= ENLARGED * median), default=HEIGHTS[0])
    return Plan(
        annotations=str(annotations),
        photos=str(photos),
        unlabelled=cfg.unlabelled or (str(photos) if num_unlabelled else None),
        output=output,
        people=len(read.persons),
        num_photos=len({person.file_name for person in read.persons}),
        train=sides["train"],
        val=sides["val"],
        num_keypoints=read.skeleton.num_keypoints,
        num_unlabelled=num_unlabelled,
        median_height=round(median),
        size_hw=(height, round(height * aspect)),
        val_share=cfg.val_share,
        how_read={key: value for key, value in plain(cfg.source).items() if value != usual[key]},
        found=(read.findings, survey.findings),
        thing=" and ".join(things),
        detector_class=classes.pop() if len(classes) == 1 else None,
    )


def _nobody_labelled(path: Path, read: Annotations) -> InputError:
    """The error about annotations in which no person has a labelled keypoint."""
    dropped = read.findings.counts("dropped")
    people = len(read.persons) + dropped.pop(NO_KEYPOINTS.what, 0)
    if dropped or not people:
        reasons = read.findings.why("dropped") or "the file has no annotations"
        return InputError(f"{path}: there is no person with labelled keypoints: {reasons}: correct the file")
    return InputError(
        f"{path}: none of its {people:,} people has a labelled keypoint: write the `keypoints` of each as x, "
        "y, v for every name of the category, with v = 2 (visible) or 1 (hidden) for those that are labelled"
    )


def _sides(read: Annotations, val_share: float) -> dict[str, int]:
    """How many people with an annotated keypoint fall to each side."""
    split = TrainValSplit(take="train", val_share=val_share)
    sides = {"train": 0, "val": 0}
    for person in read.persons:
        sides[split.side_of(person.file_name)] += bool((person.keypoints[:, 2] > 0).any())
    return sides


def count_unlabelled(place: str, labelled: Annotations) -> int | None:
    """The photos in a folder, with those below it, or in a zip in which nobody is labelled.

    None for an address. Raises InputError for anything else, and if there is no photo at all.
    """
    if "://" in place:
        return None
    photos = open_or_say(place, what=f"unlabelled: {place}")
    names = photos.names()
    if not names:
        raise InputError(f"unlabelled: {place} holds no photo ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return len(names) - len(labelled_names(labelled, photos, names))


def open_or_say(place: str, *, what: str) -> Photos:
    """The photos of a folder or a zip. Raises InputError, about `what`, if there is neither."""
    try:
        return open_photos(place)
    except InputError as error:
        raise InputError(f"{what} is neither a folder nor a zip file of photos: correct the path") from error


def write_recipes(plan: Plan) -> list[Path]:
    """Write the recipes of a plan and return their paths. Raises InputError if the folder has some."""
    folder = plan.folder
    names = ["mine.yaml", "shards.yaml", *(["unlabelled.yaml"] if plan.unlabelled else [])]
    present = [name for name in names if (folder / name).exists()]
    if present:
        raise InputError(
            f"{folder / present[0]} exists: remove it, or choose another folder with output=FOLDER"
        )
    folder.mkdir(parents=True, exist_ok=True)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # YAML; texts go through `text`
    )
    environment.filters |= {"text": json.dumps, "word": shlex.quote}
    values = {
        "plan": plan,
        "sentences": [*expectation(plan), enough_unlabelled(plan), *how_found(plan)],
        "commands": commands(plan),
    }
    for name in names:
        content = environment.get_template(f"{name}.j2").render(values)
        write_atomic(folder / name, content.encode())
    return [folder / name for name in names]


def expectation(plan: Plan) -> list[str]:
    """What was measured at about so many labels, in sentences."""
    near = min(MEASURED, key=lambda row: abs(np.log(row.labels / plan.train)))
    labels, score = ALL_LABELS
    lines = [
        f"You have about {plan.train:,} people to train on. The nearest measurement (docs/results.md): "
        "Leeds Sports Pose Extended, people in sports, ImageNet weights, views of 192 x 144, one seed, "
        f"{near.labels} labelled people and {labels:,} unlabelled ones: PCK@0.2 of {near.supervised} with "
        f"the labelled people alone, {near.semi_supervised} with the unlabelled ones ({near.how}), {score} "
        f"with all {labels:,} labels.",
        "Your photos and keypoints are others, so expect the order of magnitude and not the number.",
    ]
    if plan.train < MEASURED[0].labels / 2:
        lines.append(
            f"{plan.train} labels are fewer than any that were measured on photos. Label 50 to 100 people "
            "before you judge the result."
        )
    if plan.val < 100:
        lines.append(
            f"Only {plan.val} people are scored: a difference of a few points between two runs may be chance."
        )
    return lines


def enough_unlabelled(plan: Plan) -> str:
    """What to expect from this number of unlabelled people."""
    if plan.unlabelled is None:
        return (
            f"All photos in {plan.photos} have labelled people, so the only people without labels are the "
            "labelled ones themselves, and there is little to gain over supervised training: put photos "
            "without annotations beside them, or give unlabelled=PHOTOS."
        )
    if plan.num_unlabelled is None:
        return "How many unlabelled photos there are was not counted; 8 to 40 people per label were measured."
    ratio = plan.num_unlabelled / plan.train
    words = f"{plan.num_unlabelled:,} unlabelled photos for {plan.train:,} labelled people: {ratio:.1f} each."
    if plan.unlabelled == plan.photos:
        words = f"The unlabelled photos are those in {plan.photos} in which nobody is labelled. {words}"
    if ratio < 4:
        return f"{words} The measured runs had 8 to 40 people per label; more photos will help."
    return f"{words} The measured runs had 8 to 40 people per label."


def how_found(plan: Plan) -> list[str]:
    """A sentence where nobody finds the labelled things in the unlabelled photos."""
    if plan.unlabelled is None or plan.detector_class is not None:
        return []
    return [
        f"torchvision's detector has no class for {plan.thing}, so {plan.output}/unlabelled.yaml takes each "
        "unlabelled photo as the box of one: if photos show several, give their boxes "
        "(source.boxes.name=results source.boxes.results=FILE); if they are people by another name, let the "
        "detector find them (source.boxes.name=detector source.boxes.cache=FILE)."
    ]


def commands(plan: Plan) -> list[tuple[str, str]]:
    """What to run, each with its purpose, as a shell takes it."""
    folder = plan.output
    mine, shards, unlabelled = (
        shlex.quote(f"{folder}/{name}.yaml") for name in ("mine", "shards", "unlabelled")
    )
    both, train, val = (shlex.quote(f"output={folder}/shards/{name}") for name in ("all", "train", "val"))
    rows = [
        (
            "look at all annotations and photos first",
            f"semipose shards {shards} split=null {both} check=only",
        ),
        ("the people to train on", f"semipose shards {shards} split.take=train {train}"),
        ("the people to score", f"semipose shards {shards} split.take=val {val}"),
    ]
    if plan.unlabelled:
        what = "find the people in the unlabelled photos"
        if plan.detector_class is None:
            what = "the unlabelled photos, each whole"
        rows.append((what, f"semipose shards {unlabelled}"))
    return [
        *rows,
        (
            "the labelled people alone, to compare with",
            f'semipose train {mine} "method={{name: supervised}}" '
            f"{shlex.quote(f'output={folder}/runs/supervised')}",
        ),
        ("with the unlabelled people", f"semipose train {mine}"),
        (
            "what they gave, and what to do next",
            f"open {folder}/runs/semi-supervised/report.html in a browser",
        ),
    ]
