"""Keypoints of everybody in a photo: python example.py PHOTO [LEAST_SCORE].

Needs onnxruntime, numpy and Pillow; scipy too where `pose.json`, which says what the answers of the network
mean, has a `grouping`: then keypoints are put together to people here.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def group(
    points: np.ndarray, peaks: np.ndarray, tags: np.ndarray, order: list[int], rule: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates (K, Q, ...) to people: points (P, K, 2), peaks (P, K) and scores (P,)."""
    from scipy.optimize import linear_sum_assignment

    far = np.round(rule["tag_distance"]) + 0.5
    people: list[dict[int, int]] = []  # of each person, the candidate of each keypoint
    for k in order:
        rows = np.flatnonzero(peaks[k] > rule["least_peak"])
        free = set(rows.tolist())
        if len(rows) and people:
            means = np.array([np.mean([tags[i, q] for i, q in one.items()], axis=0) for one in people])
            distance = np.linalg.norm(tags[k, rows, None] - means, axis=-1)
            is_near = distance < rule["tag_distance"]
            cost = np.where(is_near, np.round(distance) + 1e-5 * distance**2, far)
            for row, person in zip(*linear_sum_assignment(100 * cost - peaks[k, rows, None]), strict=True):
                if is_near[row, person]:
                    people[person][k] = int(rows[row])
                    free.discard(int(rows[row]))
        people += [{k: q} for q in sorted(free)]
    found, heights = np.zeros((len(people), len(points), 2)), np.zeros((len(people), len(points)))
    for one, xy, height in zip(people, found, heights, strict=True):
        for k, q in one.items():
            xy[k], height[k] = points[k, q], peaks[k, q]
    scores = heights.mean(1)
    best = np.argsort(-scores, kind="stable")
    return found[best], heights[best], scores[best]


def is_beyond(points: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Whether the nearest cell of the network, which is 4 pixels wide, is beyond the edge."""
    return np.any(4 * np.floor(points / 4 + 0.5) > edge, axis=-1)


if len(sys.argv) < 2:
    raise SystemExit("usage: python example.py PHOTO [LEAST_SCORE]")
folder = Path(__file__).resolve().parent
session = onnxruntime.InferenceSession(str(folder / "pose.onnx"), providers=["CPUExecutionProvider"])
pose = json.loads((folder / "pose.json").read_text())
least_score = float(sys.argv[2]) if len(sys.argv) > 2 else 0.1
photo = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")  # upright, as people see it
height, width = pose["size_hw"]

# The photo fills the upper left of the view: a pixel of the view is `scale` pixels of the photo.
scale = max(photo.width / width, photo.height / height)
size = int(np.ceil(scale * width)), int(np.ceil(scale * height))
region = Image.new("RGB", size, tuple(pose["border_rgb"]))
region.paste(photo)
view = region.resize((width, height), Image.Resampling.BILINEAR, (0, 0, scale * width, scale * height))

points, peaks, last = (answer[0] for answer in session.run(None, {"image": np.asarray(view)[None]}))
edge = np.array(photo.size) / scale - 0.5  # of the photo in the view; beside it an answer means nothing
if "grouping" in pose:
    rule = pose["grouping"]
    order = [pose["keypoints"].index(name) for name in rule["order"]]
    peaks = np.where(is_beyond(points, edge), 0, peaks)
    points, peaks, last = group(points, peaks, last, order, rule)
else:
    last = np.where(is_beyond(points.mean(1), edge), 0, last)
for person, (xy, heights, score) in enumerate(zip(points, peaks, last, strict=True)):
    if score < least_score:
        continue
    for name, (px, py), peak in zip(pose["keypoints"], scale * (xy + 0.5) - 0.5, heights, strict=True):
        if peak > 0:  # `ae` may not find all keypoints of a person
            print(f"{person} {score:.2f} {name} {px:.1f} {py:.1f} {peak:.2f}")
