"""Sheets of pictures of a run, in which errors of geometry become visible first.

Points are in view px and drawn to a sixteenth of a drawn pixel, with pixel centres at integers. Left joints
are orange, right ones blue, and the others green, as on the sheet of a data set: the flip pairs say which
joints have a side, and their names say which side. A joint without a confident peak is a hollow ring without
bones.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from pipelines.views import MEAN_RGB, STD_RGB
from sharding.annotations.skeleton import Skeleton
from sharding.check.draw_pose import INK, PAPER, draw_pose
from sharding.store.files import write_atomic
from training.methods.method import Inspection
from training.scoring.oks import person_score

TILE_HEIGHT = 280
CAPTION_HEIGHT = 18
MARGIN = 3
CONFIDENT_PEAK = 0.2
Tile = tuple[np.ndarray, str]


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
                f"weak: best peak {peaks[i].max():.2f}, mean {peaks[i].mean():.2f}",
            ),
            (
                _draw_pose(_enlarge(strong[i]), strong[i], points_strong[i], sure, skeleton),
                "strong: points moved",
            ),
            (_overlay(strong[i], target[i]), "target of the strong view"),
            *((_enlarge(images[i]), caption) for caption, images in augmented.items()),
        ]
        sheet.append(tiles)
    _write(path, sheet)


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
    factor, stride = _factor(image), image.shape[0] / heatmaps.shape[1]
    large = _enlarge(image)
    scale, offset = 1 / (factor * stride), (0.5 / factor - 0.5) / stride
    cells_from_drawn = np.array([[scale, 0, offset], [0, scale, offset]])
    strongest = cv2.warpAffine(
        np.clip(heatmaps.max(axis=0), 0, 1).astype(np.float32),
        cells_from_drawn,
        (large.shape[1], large.shape[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )
    colours = cv2.applyColorMap((strongest * 255).astype(np.uint8), cv2.COLORMAP_HOT)[..., ::-1]
    share = 0.7 * strongest[..., None]
    return (large * (1 - share) + colours * share).astype(np.uint8)


def _draw_pose(
    canvas: np.ndarray, image: np.ndarray, points_xy: np.ndarray, sure: np.ndarray, skeleton: Skeleton
) -> np.ndarray:
    """Draw joints and bones of one person, given in the pixels of `image`, on its enlarged `canvas`."""
    canvas = np.ascontiguousarray(canvas)
    drawn_xy = (points_xy + 0.5) * _factor(image) - 0.5
    radius = max(1.5, min(4.0, 60 / skeleton.num_keypoints))
    draw_pose(canvas, drawn_xy, skeleton, has_bones=sure, is_filled=sure, radius=radius)
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


def _write(path: Path, rows: Sequence[Sequence[Tile]]) -> None:
    """Lay the tiles out and write the PNG atomically."""
    pictures = [picture for row in rows for picture, _ in row]
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    columns = max(len(row) for row in rows)
    blank = (np.full((1, 1, 3), PAPER, np.uint8), "")
    full = [[*row, *[blank] * (columns - len(row))] for row in rows]
    sheet = np.vstack([np.hstack([_captioned(tile, width, height) for tile in row]) for row in full])
    done, png = cv2.imencode(".png", sheet[..., ::-1])
    if not done:
        raise RuntimeError(f"cannot encode {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, png.tobytes())
