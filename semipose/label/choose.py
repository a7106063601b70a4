"""Which photos are most worth labelling: `semipose label next`."""

import csv
import io
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from scipy.cluster.vq import kmeans2

from semipose.configs.errors import InputError
from semipose.label.labels import LabelledPerson, LabelledPhoto, Labels, as_json, read_coco_labels
from semipose.label.out import write_photos
from semipose.label.settings import NextSettings
from semipose.models.files import PEOPLE_NAME
from semipose.predict.output import KEYPOINTS
from semipose.sharding.annotations.findings import Findings
from semipose.sharding.annotations.photos import Photos
from semipose.sharding.annotations.record import Annotations, Person, photo_key
from semipose.sharding.annotations.split import TrainValSplit
from semipose.sharding.check.draw_pose import INK, PAPER
from semipose.sharding.check.fonts import legible
from semipose.sharding.check.sheet import draw_person
from semipose.sharding.store.files import write_atomic
from semipose.training.reporting.people import read_people

LIST, SHEET = "next.csv", "sheet"
COLUMNS = ("rank", "file", "person", "mean_peak", "least_sure_keypoint", "sequence", "reason")
POOL = 5
"""`spread` chooses among this many times as many of the least sure photos (Zhdanov, "Diverse mini-batch
Active Learning", 2019: the factor beta of a prefilter by uncertainty before k-means)."""
TILES, TILE_COLUMNS, LINE_PX, TEXT_PX = 16, 4, 20, 14


@dataclass(frozen=True)
class Candidate:
    """A photo that could be labelled next."""

    photo: LabelledPhoto
    person: LabelledPerson
    """Its least sure person."""
    mean_peak: float
    """The mean peak of that person's keypoints."""
    sequence: str


def read_predictions(source: Path) -> Labels:
    """The people of a prediction folder, of its keypoints.json, or of a folder with people.npz.

    Raises InputError for anything else, and for files without peaks.
    """
    file = source / KEYPOINTS if source.is_dir() else source
    if source.is_dir() and not file.is_file() and (people := read_people(source)) is not None:
        photos: dict[str, LabelledPhoto] = {}
        for index, name in enumerate(people.file_names.tolist()):
            photo = photos.setdefault(name, LabelledPhoto(name, None))
            if not people.is_found[index]:
                continue
            keypoints = np.column_stack([people.points_xy[index], np.full(people.skeleton.num_keypoints, 2)])
            row = keypoints.astype(np.float64), people.boxes_xywh[index].astype(np.float64)
            peaks, score = people.peaks[index].astype(np.float64), float(people.scores[index])
            photo.people.append(LabelledPerson(*row, int(people.ids[index]), peaks, score))
        return Labels(people.skeleton, (1, "person"), list(photos.values()))
    if not file.is_file():
        raise InputError(
            f"{source}: this holds neither {KEYPOINTS} nor {PEOPLE_NAME}: give the folder of a prediction, "
            "or a model and photos"
        )
    labels = read_coco_labels(file)
    if labels.num_people and all(person.peaks is None for photo in labels.photos for person in photo.people):
        raise InputError(
            f"{file}: its people have no `peaks`, which say how sure the network is: give a file of "
            "`semipose predict`"
        )
    return labels


def choose(labels: Labels, cfg: NextSettings, console: Console) -> list[Candidate]:
    """The chosen photos, the first one first. Raises InputError if no photo is left to choose from.

    A photo of `cfg.labelled` is not chosen again if somebody in it has a labelled keypoint. People without
    one do not count, even if a labeller left them so on purpose: shards drop them, and nothing is learned.
    """
    done: set[str] = set()
    if cfg.labelled is not None:
        annotated = read_coco_labels(cfg.labelled)
        done = {
            photo_key(photo.file_name)
            for photo in annotated.photos
            if any(person.num_labelled for person in photo.people)
        }
    grouping = TrainValSplit(take="train", group="sequence")
    candidates, nobody, known = [], 0, 0
    for photo in labels.photos:
        people = [person for person in photo.people if person.peaks is not None]
        nobody += not people
        if people and photo_key(photo.file_name) in done:
            known += 1
        elif people:
            means = [float(np.mean(person.peaks)) for person in people if person.peaks is not None]
            least = int(np.argmin(means))
            sequence = grouping.group_of(photo.file_name)
            candidates.append(Candidate(photo, people[least], means[least], sequence))
    _note_other_folders(labels, done, cfg, console)
    if nobody:
        console.print(
            f"note: in {nobody:,} photos nobody was found, and they are not chosen", highlight=False
        )
    if not candidates:
        raise InputError(
            f"there is no photo to choose: of {len(labels.photos):,} photos, {nobody:,} show nobody and "
            f"{known:,} are labelled"
        )
    chosen = _pick(candidates, cfg)
    if len(chosen) < cfg.n:
        console.print(_few(len(chosen), candidates, cfg), highlight=False, soft_wrap=True)
    return chosen


def _note_other_folders(labels: Labels, done: set[str], cfg: NextSettings, console: Console) -> None:
    """Say that photos may be labelled ones under names with other folders, which are chosen again."""
    by_last = {Path(name).name: name for name in done}
    keys = [photo_key(photo.file_name) for photo in labels.photos]
    alike = [key for key in keys if key not in done and Path(key).name in by_last]
    if alike:
        console.print(
            f"note: {len(alike):,} photos have the names of labelled ones in other folders, such as "
            f"{alike[0]} and {by_last[Path(alike[0]).name]}, and count as not labelled: if they are the same "
            f"photos, give them by the folder from which {cfg.labelled} names them",
            highlight=False,
            soft_wrap=True,
        )


def _few(count: int, candidates: list[Candidate], cfg: NextSettings) -> str:
    """Why fewer photos than wanted are chosen."""
    few = f"note: only {count:,} photos can be chosen out of {len(candidates):,}"
    if cfg.per_sequence is None or count == len(candidates):
        return few
    ((largest, photos),) = Counter(candidate.sequence for candidate in candidates).most_common(1)
    first = next(each.photo.file_name for each in candidates if each.sequence == largest)
    return (
        f"{few}: per_sequence={cfg.per_sequence} takes at most {cfg.per_sequence} of photos whose names "
        f"differ only in their last number, such as {first} and {photos - 1:,} more. If they are single "
        "photos and no frames of clips, leave per_sequence out; if they are, put each clip into a folder"
    )


def _pick(candidates: list[Candidate], cfg: NextSettings) -> list[Candidate]:
    if cfg.strategy == "random":
        order = np.random.default_rng(cfg.seed).permutation(len(candidates)).tolist()
        return _limited([candidates[i] for i in order], cfg.n, cfg.per_sequence)
    by_name = sorted(candidates, key=lambda each: each.photo.file_name)
    ranked = sorted(by_name, key=lambda each: each.mean_peak)
    if cfg.strategy == "uncertain":
        return _limited(ranked, cfg.n, cfg.per_sequence)
    pool = _limited(ranked, POOL * cfg.n, cfg.per_sequence)
    if len(pool) <= cfg.n:
        return pool
    features = np.array([_pose_of(each.person) for each in pool])
    _, clusters = kmeans2(features, cfg.n, minit="++", seed=np.random.default_rng(cfg.seed), missing="warn")
    firsts = [int(np.flatnonzero(clusters == cluster)[0]) for cluster in np.unique(clusters)]
    others = [i for i in range(len(pool)) if i not in set(firsts)]  # where clusters were left empty
    return [pool[i] for i in sorted(firsts) + others[: cfg.n - len(firsts)]]


def _limited(ranked: list[Candidate], most: int, per_sequence: int | None) -> list[Candidate]:
    """The first ones, at most `per_sequence` of each sequence."""
    counts: Counter[str] = Counter()
    kept = []
    for candidate in ranked:
        counts[candidate.sequence] += 1
        if per_sequence is None or counts[candidate.sequence] <= per_sequence:
            kept.append(candidate)
    return kept[:most]


def _pose_of(person: LabelledPerson) -> np.ndarray:
    """(2 K,) the pose, whatever its position and size: keypoints from their mean, over their spread."""
    points_xy = person.keypoints[:, :2] - person.keypoints[:, :2].mean(axis=0)
    return np.asarray((points_xy / max(float(np.sqrt((points_xy**2).sum(axis=1).mean())), 1e-6)).ravel())


def write_chosen(
    chosen: list[Candidate], labels: Labels, photos: Photos | None, cfg: NextSettings
) -> list[Path]:
    """Write the list, and where the photos are known, copies of them and the sheets. Returns the paths."""
    output = cfg.output
    output.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for rank, each in enumerate(chosen, start=1):
        facts = [rank, each.photo.file_name, each.person.id, round(each.mean_peak, 4)]
        writer.writerow([*facts, _least_sure(each, labels), each.sequence, _reason(cfg)])
    write_atomic(output / LIST, text.getvalue().encode())
    kept = Labels(labels.skeleton, labels.category, [each.photo for each in chosen])
    write_atomic(output / KEYPOINTS, as_json(kept.to_coco()))
    written = [output / LIST, output / KEYPOINTS]
    if photos is not None:
        write_photos(kept, photos, output / "photos", "copy")
        written += _write_sheets(chosen, labels, photos, cfg)
    return written


def _reason(cfg: NextSettings) -> str:
    return {"random": "random", "uncertain": "low mean peak", "spread": "low mean peak, a pose of its own"}[
        cfg.strategy
    ]


def _least_sure(candidate: Candidate, labels: Labels) -> str:
    assert candidate.person.peaks is not None
    return labels.skeleton.names[int(candidate.person.peaks.argmin())]


def _write_sheets(chosen: list[Candidate], labels: Labels, photos: Photos, cfg: NextSettings) -> list[Path]:
    """Pictures of the chosen people, 16 per sheet; keypoints of a low peak are hollow."""
    people = tuple(_as_person(index, each, cfg) for index, each in enumerate(chosen, start=1))
    findings = Findings(cfg.output)
    annotations = Annotations(
        skeleton=labels.skeleton, photos=photos, persons=people, findings=findings, upright=True
    )
    paths = []
    for first in range(0, len(people), TILES):
        tiles = []
        for candidate, person in zip(
            chosen[first : first + TILES], people[first : first + TILES], strict=True
        ):
            tile = draw_person(person, annotations)
            canvas = Image.new("RGB", (tile.width, tile.height + LINE_PX), PAPER)
            canvas.paste(tile, (0, LINE_PX))
            line = f"mean peak {candidate.mean_peak:.2f}, least sure: {_least_sure(candidate, labels)}"
            shown, font = legible(line, TEXT_PX)
            ImageDraw.Draw(canvas).text((4, 2), shown, INK, font)
            tiles.append(canvas)
        path = cfg.output / f"{SHEET}-{first // TILES + 1:02d}.jpg"
        write_atomic(
            path, _sheet(tiles, f"{cfg.strategy}: {first + 1} to {first + len(tiles)} of {len(chosen)}")
        )
        paths.append(path)
    return paths


def _sheet(tiles: list[Image.Image], title: str) -> bytes:
    columns = min(TILE_COLUMNS, len(tiles))
    width, height = tiles[0].width + 3, tiles[0].height + 3
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * width, LINE_PX + rows * height), PAPER)
    legend = f"{title}   orange left, blue right, green middle; hollow: the network is not sure"
    shown, font = legible(legend, TEXT_PX)
    ImageDraw.Draw(sheet).text((4, 2), shown, INK, font)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (column * width, LINE_PX + row * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


def _as_person(rank: int, candidate: Candidate, cfg: NextSettings) -> Person:
    """The least sure person of a photo for the sheet; its id is the rank."""
    person = candidate.person
    assert person.peaks is not None
    keypoints = person.keypoints.copy()
    keypoints[:, 2] = np.where(person.peaks >= cfg.predict.min_peak, 2, 1)
    box = person.box_xywh if person.box_xywh is not None else np.array([0.0, 0.0, 1.0, 1.0])
    x, y, width, height = box.tolist()
    return Person(
        id=rank,
        image_id=rank,
        file_name=candidate.photo.file_name,
        source_size_wh=candidate.photo.size_wh,
        box_xywh=(x, y, width, height),
        keypoints=keypoints.astype(np.float32),
        area=width * height,
    )
