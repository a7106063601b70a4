"""The pictures of a page: people with their annotation and what was found, as WebP inside the HTML."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from semipose.sharding.check.draw_pose import draw_pose, fixed_point
from semipose.training.reporting.page.diagnosis import NEAR
from semipose.training.reporting.people import ScoredPeople

TILE_HEIGHT = 240
SHEET_WIDTH = 1400
CONFIDENT_PEAK = 0.2
"""As in the sheets of a run: a keypoint with a lower peak is hollow and has no bones."""


def draw_person(people: ScoredPeople, index: int, baseline: ScoredPeople | None) -> str | None:
    """A person as a data address of WebP: annotated, found by the baseline if it is there, found by the run.

    A white line leads from each keypoint that is elsewhere to its place. None if there is no picture.
    """
    picture = people.pictures.get(index)
    if picture is None:
        return None
    image = Image.open(io.BytesIO(picture.webp)).convert("RGB")
    scale = TILE_HEIGHT / image.height
    size_wh = (max(1, round(image.width * scale)), TILE_HEIGHT)
    pixels = np.asarray(image.resize(size_wh, Image.Resampling.LANCZOS))
    view_from_image = picture.view_from_image * scale
    view_from_image[:, 2] += (scale - 1) / 2  # pixel centres are at integers in both
    v = people.truth[index, :, 2]
    annotated = np.where(v[:, None] > 0, _moved(people.truth[index, :, :2], view_from_image), np.nan)
    canvas = pixels.copy()
    draw_pose(canvas, annotated, people.skeleton, has_bones=v > 0, is_filled=v == 2, radius=3.5)
    panels = [canvas]
    for found, row in _found(people, index, baseline):
        panels.append(_draw_found(pixels, found, row, annotated, view_from_image))
    gap = np.full((TILE_HEIGHT, 3, 3), 255, np.uint8)
    return webp(np.hstack([part for panel in panels for part in (panel, gap)][:-1]))


def _found(
    people: ScoredPeople, index: int, baseline: ScoredPeople | None
) -> list[tuple[ScoredPeople, int | None]]:
    """The rows of the person in the baseline, if there is one, and in the run."""
    if baseline is None:
        return [(people, index)]
    rows = np.flatnonzero(baseline.ids == people.ids[index])
    return [(baseline, int(rows[0]) if len(rows) else None), (people, index)]


def _draw_found(
    pixels: np.ndarray,
    found: ScoredPeople,
    row: int | None,
    annotated: np.ndarray,
    view_from_image: np.ndarray,
) -> np.ndarray:
    """What was found of a person, on a copy of the pixels; nothing is drawn if it was not found."""
    import cv2

    canvas = pixels.copy()
    if row is None or not found.is_found[row]:
        return canvas
    points = _moved(found.points_xy[row], view_from_image)
    for joint in np.flatnonzero(found.similarity[row] < NEAR):
        ends = fixed_point(points[joint]), fixed_point(annotated[joint])
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.line(canvas, *ends, colour, thickness, cv2.LINE_AA, 4)
    sure = found.peaks[row] > CONFIDENT_PEAK
    draw_pose(canvas, points, found.skeleton, has_bones=sure, is_filled=sure, radius=3.5)
    return canvas


def _moved(points_xy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (K, 2) moved by a matrix (2, 3), float64."""
    return np.asarray(points_xy.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2])


def last_sheet(folder: Path, name: str) -> tuple[str, int] | None:
    """The newest sheet of a run, `pictures/NAME-STEP.png`, as a data address, and its step; or None."""
    sheets = sorted((folder / "pictures").glob(f"{name}-*.png"))
    if not sheets:
        return None
    image = Image.open(sheets[-1]).convert("RGB")
    if image.width > SHEET_WIDTH:
        image = image.resize((SHEET_WIDTH, round(image.height * SHEET_WIDTH / image.width)))
    return webp(np.asarray(image)), int(sheets[-1].stem.rsplit("-", 1)[1])


def webp(pixels: np.ndarray, *, quality: int = 80) -> str:
    """Pixels (H, W, 3) uint8 RGB as a `data:` address."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "WEBP", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
