"""Sheets of pictures of a run, in which errors of geometry become visible first.

Points are in view px and drawn to a sixteenth of a drawn pixel, with pixel centres at integers. Left joints
are orange, right ones blue, and the others green, as on the sheet of a data set: the flip pairs say which
joints have a side, and their names say which side. In a photo of several people each person has a colour
and a number instead. A joint without a confident peak is a hollow ring without bones.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from semipose.models.codecs.heatmap import HeatmapCodec
from semipose.pipelines.batch import EvalBatch
from semipose.pipelines.people import People
from semipose.pipelines.views import MEAN_RGB, STD_RGB
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.sharding.check.draw_pose import (
    INK,
    PAPER,
    SHIFT,
    Colour,
    colours_of_person,
    draw_pose,
    fixed_point,
    write_caption,
)
from semipose.sharding.store.files import write_atomic
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training.methods.method import Inspection, PhotoInspection
from semipose.training.predict import Codec, Network, PhotoBesideTruth, beside_truth, photos_beside_truth
from semipose.training.scoring.oks import match, oks_to_truth, person_score

TILE_HEIGHT = 280
CAPTION_HEIGHT = 18
MARGIN = 3
CONFIDENT_PEAK = 0.2
LEAST_SCORE = 0.1
"""People in whole photos with lower scores are counted, not drawn: a codec may read 30 in every photo."""
HIT_OKS = 0.5
Tile = tuple[np.ndarray, str]
IGNORED: tuple[Colour, Colour] = ((150, 150, 150), (0, 0, 0))
"""Colour and rim of people who may be there."""
LEGEND = (
    "coloured: a person who teaches the student, with number and score",
    "grey: a person who may be there; around the joints nothing is taught",
    "dark: beyond the photo or the weak view; nothing is taught",
)


def draw_views(path: Path, seen: Inspection | PhotoInspection, skeleton: Skeleton) -> None:
    """Write the sheet of views of what a method made of unlabelled people, or of whole photos."""
    if isinstance(seen, PhotoInspection):
        photo_view_sheet(path, seen, skeleton)
    else:
        view_sheet(path, seen, skeleton)


def view_sheet(path: Path, seen: Inspection, skeleton: Skeleton, *, max_rows: int = 8) -> None:
    """Write what a method made of unlabelled people, one person per row.

    Columns: the weak view with the teacher's heatmaps and points; the strong view with the points moved into
    it; the strong view with the heatmaps that are the student's target; what the student sees. Heatmaps are
    bright at 1 and transparent at 0.
    """
    rows = min(max_rows, len(seen.weak))
    weak, strong = _pixels(seen.weak, rows), _pixels(seen.strong, rows)
    augmented = {caption: _pixels(images, rows) for caption, images in seen.augmented.items()}
    heatmaps, target = _array(seen.heatmaps[:rows]), _array(seen.target[:rows])
    points_weak, points_strong = _array(seen.points_weak[:rows]), _array(seen.points_strong[:rows])
    peaks = heatmaps.max(axis=(2, 3))
    sheet = []
    for i in range(rows):
        sure = peaks[i] > CONFIDENT_PEAK
        tiles = [
            (
                _draw_pose(_overlay(weak[i], heatmaps[i]), weak[i], points_weak[i], sure, skeleton),
                f"row {i + 1}, weak: peaks up to {peaks[i].max():.2f}, mean {peaks[i].mean():.2f}",
            ),
            (
                _draw_pose(_enlarge(strong[i]), strong[i], points_strong[i], sure, skeleton),
                "strong: points moved",
            ),
            (_overlay(strong[i], target[i]), "target of the strong view"),
            *(
                (
                    _enlarge(images[i]),
                    f"0.5 x this + 0.5 x row {(i + 1) % len(seen.weak) + 1}"
                    if name == "mixed"
                    else f"{name}: {_hidden(strong[i], images[i], points_strong[i])}",
                )
                for name, images in augmented.items()
            ),
        ]
        sheet.append(tiles)
    _write(path, sheet)


def photo_view_sheet(path: Path, seen: PhotoInspection, skeleton: Skeleton, *, max_rows: int = 8) -> None:
    """Write what a method made of unlabelled photos, one photo per row, with a legend below.

    Columns: the weak view with the teacher's people, who are kept (coloured) or ignored (grey), with those of
    their joints that count; what the student sees, with the same people moved into it, darkened where nothing
    is taught; the heatmaps that are its target; its own heatmaps.
    """
    rows = min(max_rows, len(seen.weak))
    weak, strong = _pixels(seen.weak, rows), _pixels(seen.strong, rows)
    target, answer, weights = (_array(maps[:rows]) for maps in (seen.target, seen.answer, seen.weights))
    scores, exists = _array(seen.scores[:rows]), _array(seen.found.is_person[:rows]) > 0
    kept, ignored = (_array(people.is_person[:rows]) > 0 for people in (seen.kept, seen.ignored))

    def shown(people: People, i: int) -> np.ndarray:
        is_shown = _array(people.visible[i]) > 0
        return np.where(is_shown[..., None], _array(people.points_xy[i]), np.nan)

    sheet: list[list[Tile]] = []
    for i in range(rows):
        of_kept = np.flatnonzero(kept[i])
        of_kept, of_ignored = of_kept[np.argsort(-scores[i][of_kept])], np.flatnonzero(ignored[i])
        order = np.concatenate((of_kept, of_ignored))
        colours = [colours_of_person(number) for number in range(len(of_kept))] + [IGNORED] * len(of_ignored)
        captions = [f"{n + 1}: {scores[i][q]:.2f}" for n, q in enumerate(of_kept)]
        captions += [""] * len(of_ignored)  # early teachers have dozens of them
        is_kept = (np.arange(len(order)) < len(of_kept))[:, None, None]
        in_weak = shown(seen.found, i)[order]
        in_strong = np.where(is_kept, shown(seen.kept, i)[order], shown(seen.ignored, i)[order])
        dropped = exists[i].sum() - len(order)
        counts = f"{len(of_kept)} kept, {len(of_ignored)} ignored, {dropped} dropped"
        veiled = _veil(strong[i], weights[i])
        sheet.append(
            [
                (
                    _draw_people(_enlarge(weak[i]), weak[i], in_weak, colours, captions, skeleton),
                    f"weak: {counts}",
                ),
                (
                    _draw_people(veiled, strong[i], in_strong, colours, captions, skeleton),
                    "strong, augmented",
                ),
                (_overlay(strong[i], target[i]), "target of the strong view"),
                (_overlay(strong[i], answer[i]), "the student's heatmaps"),
            ]
        )
    _write(path, sheet, legend=LEGEND)


def _hidden(strong: np.ndarray, augmented: np.ndarray, points_xy: np.ndarray) -> str:
    """How many keypoints (K, 2) of a view (H, W, 3) an augmentation has painted over, in words.

    Where it changed more than half of the pixels, as colours do, nothing can be said.
    """
    is_changed = (strong != augmented).any(-1)
    cells = np.rint(points_xy).astype(int)
    is_inside = ((cells >= 0) & (cells < is_changed.shape[::-1])).all(-1)
    if is_changed.mean() > 0.5:
        return "all keypoints in sight, other colours"
    hidden = is_changed[cells[is_inside, 1], cells[is_inside, 0]].sum()
    outside = (~is_inside).sum()
    return f"{hidden} of {len(points_xy)} keypoints hidden" + (f", {outside} outside" if outside else "")


def draw_predictions(
    path: Path, network: Network, batch: EvalBatch, ground_truth: GroundTruth, codec: Codec
) -> None:
    """Write the sheet of predictions of one batch, of people in views of their own or of whole photos."""
    if isinstance(codec, HeatmapCodec):
        people = beside_truth(network, batch, ground_truth, codec=codec)
        prediction_sheet(path, skeleton=codec.skeleton, **people)
    else:
        photos = photos_beside_truth(network, batch, ground_truth, codec=codec)
        photo_sheet(path, photos, codec.skeleton)


def prediction_sheet(
    path: Path,
    *,
    images: torch.Tensor,
    predicted: np.ndarray,
    peaks: np.ndarray,
    truth: np.ndarray,
    visible: np.ndarray,
    skeleton: Skeleton,
    max_people: int = 12,
) -> None:
    """Write the ground truth of each person with the prediction to its right; four people per row.

    `images` (N, 3, H, W) normalised; `predicted` and `truth` (N, K, 2) view px, `peaks` (N, K) of the
    heatmaps, `visible` (N, K) nonzero if the truth is labelled (other joints are not drawn in it).
    """
    people = min(max_people, len(images))
    pixels = _pixels(images, people)
    scores = person_score(np.ones(people), peaks[:people])
    tiles: list[Tile] = []
    for i in range(people):
        labelled = np.asarray(visible[i]) > 0
        shown = np.where(labelled[:, None], truth[i], np.nan)
        tiles.append((_draw_pose(_enlarge(pixels[i]), pixels[i], shown, labelled, skeleton), f"truth {i}"))
        sure = np.asarray(peaks[i]) > CONFIDENT_PEAK
        found = _draw_pose(_enlarge(pixels[i]), pixels[i], np.asarray(predicted[i]), sure, skeleton)
        tiles.append((found, f"found {i}: score {scores[i]:.2f}"))
    _write(path, [tiles[start : start + 8] for start in range(0, len(tiles), 8)])


def photo_sheet(
    path: Path, photos: Sequence[PhotoBesideTruth], skeleton: Skeleton, *, max_photos: int = 8
) -> None:
    """Write the ground truth of each photo with what was found to its right; two photos per row.

    Annotated people are numbered from 1. Somebody who was found has the number and the colour of the
    annotated person that fits best (an OKS of HIT_OKS or more; of several the one with the highest score),
    and numbers of their own if there is none. Thin boxes are around what is ignored: crowds, and people
    without keypoints.
    """
    tiles: list[Tile] = []
    for photo in photos[:max_photos]:
        pixels = _pixels(photo.image[None], 1)[0]
        count, is_shown = len(photo.truth), photo.scores >= LEAST_SCORE
        numbers = _numbers(photo, skeleton)
        marked = photo.truth[..., 2] > 0
        annotated = np.where(marked[..., None], photo.truth[..., :2], np.nan)
        captions = [str(number + 1) for number in range(count)]
        colours = [colours_of_person(number) for number in range(count)]
        drawn = _draw_people(_enlarge(pixels), pixels, annotated, colours, captions, skeleton)
        for corners in (photo.ignored + 0.5) * _factor(pixels) - 0.5:
            cv2.rectangle(drawn, fixed_point(corners[0]), fixed_point(corners[1]), INK, 1, cv2.LINE_AA, SHIFT)
        tiles.append((drawn, f"{photo.name}: {count} annotated"))
        captions = [f"{n + 1}: {s:.2f}" for n, s in zip(numbers, photo.scores, strict=True)]
        shown = np.flatnonzero(is_shown)
        drawn = _draw_people(
            _enlarge(pixels),
            pixels,
            photo.points[shown],
            [colours_of_person(numbers[i]) for i in shown],
            [captions[i] for i in shown],
            skeleton,
            sure=photo.peaks[shown] > CONFIDENT_PEAK,
        )
        hits = sum(numbers[i] < count for i in shown)
        hidden = f", {(~is_shown).sum()} more below {LEAST_SCORE}" if not is_shown.all() else ""
        tiles.append((drawn, f"{len(shown)} found, {hits} of {count} annotated{hidden}"))
    _write(path, [tiles[start : start + 4] for start in range(0, len(tiles), 4)])


def _numbers(photo: PhotoBesideTruth, skeleton: Skeleton) -> list[int]:
    """The number, from 0, of each person that was found; below G that of an annotated person."""
    oks = oks_to_truth(photo.points, photo.truth, photo.areas, skeleton.sigmas)
    person_of, others = dict(match(oks, HIT_OKS)), itertools.count(len(photo.truth))
    return [person_of[row] if row in person_of else next(others) for row in range(len(oks))]


def _draw_people(
    canvas: np.ndarray,
    image: np.ndarray,
    points_xy: np.ndarray,
    colours: Sequence[tuple[Colour, Colour]],
    captions: Sequence[str],
    skeleton: Skeleton,
    *,
    sure: np.ndarray | None = None,
) -> np.ndarray:
    """The enlarged `image` on `canvas` with people, the first one on top, and captions above their heads.

    points_xy (P, K, 2) in pixels of `image`; joints that are NaN are not drawn, those that are not `sure`
    (P, K) are rings. colours: of each person and of the rim. captions: empty for none.
    """
    sure = np.isfinite(points_xy).all(-1) if sure is None else sure
    for i in reversed(range(len(points_xy))):
        canvas = _draw_pose(canvas, image, points_xy[i], sure[i], skeleton, colours[i])
    taken: list[tuple[int, int, int]] = []
    for points, (colour, _), caption in zip(points_xy, colours, captions, strict=True):
        drawn = (points[np.isfinite(points).all(-1)] + 0.5) * _factor(image) - 0.5
        if len(drawn) and caption:
            write_caption(canvas, drawn[drawn[:, 1].argmin()], caption, colour, taken)
    return canvas


def _array(values: torch.Tensor) -> np.ndarray:
    return np.asarray(values.detach().float().cpu())


def _pixels(images: torch.Tensor, count: int) -> np.ndarray:
    """The first normalised images (N, 3, H, W) as RGB (count, H, W, 3) uint8."""
    planes = _array(images[:count]).transpose(0, 2, 3, 1)
    return np.clip((planes * np.asarray(STD_RGB) + np.asarray(MEAN_RGB)) * 255 + 0.5, 0, 255).astype(np.uint8)


def _factor(image: np.ndarray) -> int:
    """How often a pixel is repeated along each axis, so that small inputs are readable."""
    return max(1, round(TILE_HEIGHT / image.shape[0]))


def _enlarge(image: np.ndarray) -> np.ndarray:
    return image.repeat(_factor(image), axis=0).repeat(_factor(image), axis=1)


def _overlay(image: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """The enlarged image (H, W, 3) below the maximum of its heatmaps (K, h, w); cell i is at pixel S*i."""
    large = _enlarge(image)
    strongest = _drawn_from_cells(image, np.clip(heatmaps.max(axis=0), 0, 1), cv2.BORDER_CONSTANT)
    colours = cv2.applyColorMap((strongest * 255).astype(np.uint8), cv2.COLORMAP_HOT)[..., ::-1]
    share = 0.7 * strongest[..., None]
    return (large * (1 - share) + colours * share).astype(np.uint8)


def _veil(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The enlarged image (H, W, 3), dark where no heatmap is taught and grey where not all of them are.

    weights (C, h, w): of the heatmaps' cells.
    """
    none, some = (weights.max(axis=0) == 0, weights.min(axis=0) == 0)
    is_dark, is_grey = (
        _drawn_from_cells(image, mask, cv2.BORDER_REPLICATE)[..., None] > 0.5 for mask in (none, some)
    )
    large = _enlarge(image).astype(np.float32)
    large = np.where(is_grey, 0.6 * large + 0.4 * np.asarray(IGNORED[0], np.float32), large)
    return np.where(is_dark, 0.3 * _enlarge(image), large).astype(np.uint8)


def _drawn_from_cells(image: np.ndarray, values: np.ndarray, border: int) -> np.ndarray:
    """Values (h, w) of heatmap cells on the pixels of the enlarged image; cell i is at pixel S*i."""
    factor, stride = _factor(image), image.shape[0] / values.shape[0]
    scale, offset = 1 / (factor * stride), (0.5 / factor - 0.5) / stride
    return cv2.warpAffine(
        values.astype(np.float32),
        np.array([[scale, 0, offset], [0, scale, offset]]),
        (image.shape[1] * factor, image.shape[0] * factor),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=border,
    )


def _draw_pose(
    canvas: np.ndarray,
    image: np.ndarray,
    points_xy: np.ndarray,
    sure: np.ndarray,
    skeleton: Skeleton,
    colours: tuple[Colour | None, Colour] = (None, (0, 0, 0)),
) -> np.ndarray:
    """Draw joints and bones of one person, given in the pixels of `image`, on its enlarged `canvas`.

    colours: of the person, None for those of its sides, and of the rim.
    """
    canvas = np.ascontiguousarray(canvas)
    drawn_xy = (points_xy + 0.5) * _factor(image) - 0.5
    radius = max(1.5, min(4.0, 60 / skeleton.num_keypoints))
    colour, rim = colours
    draw_pose(
        canvas, drawn_xy, skeleton, has_bones=sure, is_filled=sure, radius=radius, colour=colour, rim=rim
    )
    return canvas


def _captioned(tile: Tile, width: int, height: int) -> np.ndarray:
    """A tile on a background of one size, with its caption below, which is shrunk if it is too long."""
    picture, caption = tile
    paper = np.full((height + CAPTION_HEIGHT, width, 3), PAPER, np.uint8)
    paper[: picture.shape[0], : picture.shape[1]] = picture
    (text_width, _), _ = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
    size = 0.42 * min(1.0, (width - 6) / max(text_width, 1))
    origin = (3, height + CAPTION_HEIGHT - 5)
    cv2.putText(paper, caption, origin, cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)
    return cv2.copyMakeBorder(paper, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_CONSTANT, value=PAPER)


def _write(path: Path, rows: Sequence[Sequence[Tile]], *, legend: Sequence[str] = ()) -> None:
    """Lay the tiles out, with the lines of a legend below them, and write the PNG atomically."""
    pictures = [picture for row in rows for picture, _ in row]
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    columns = max(len(row) for row in rows)
    blank = (np.full((1, 1, 3), PAPER, np.uint8), "")
    full = [[*row, *[blank] * (columns - len(row))] for row in rows]
    sheet = np.vstack([np.hstack([_captioned(tile, width, height) for tile in row]) for row in full])
    for line in legend:
        width = sheet.shape[1] - 2 * MARGIN
        sheet = np.vstack((sheet, _captioned((np.full((1, width, 3), PAPER, np.uint8), line), width, 1)))
    done, png = cv2.imencode(".png", sheet[..., ::-1])
    if not done:
        raise RuntimeError(f"cannot encode {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, png.tobytes())
