"""A keypoint set as data: names, left/right pairs, bones and OKS sigmas travel with the shards."""

from dataclasses import dataclass
from typing import Any

DEFAULT_SIGMA = 0.05
"""OKS sigma of a keypoint that has no published one: between COCO's eyes (0.025) and hips (0.107)."""


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """The K keypoints of a data set, in the order of its annotations.

    names: K distinct names. flip_pairs: index pairs that a mirror image exchanges.
    bones: index pairs (0-based) that a picture joins with a line.
    sigmas: K OKS constants, as pycocotools' `kpt_oks_sigmas` (relative to the square root of the area).
    """

    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    bones: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.names)
        if not count or len(set(self.names)) != count:
            raise ValueError(f"a skeleton needs distinct keypoint names, got {self.names}")
        if len(self.sigmas) != count or min(self.sigmas) <= 0:
            raise ValueError(
                f"a skeleton of {count} keypoints needs {count} sigmas above 0, got {self.sigmas}"
            )
        indices = [index for pair in (*self.flip_pairs, *self.bones) for index in pair]
        if any(not 0 <= index < count for index in indices):
            raise ValueError(
                f"flip pairs and bones must be indices in 0..{count - 1}: {self.flip_pairs}, {self.bones}"
            )
        flipped = [index for pair in self.flip_pairs for index in pair]
        if len(set(flipped)) != len(flipped):
            raise ValueError(f"a keypoint is in two flip pairs: {self.flip_pairs}")

    @property
    def num_keypoints(self) -> int:
        """K."""
        return len(self.names)

    @property
    def flip_order(self) -> tuple[int, ...]:
        """Permutation of K indices: keypoint k of a mirror image is keypoint `flip_order[k]` of the image."""
        order = list(range(self.num_keypoints))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)


COCO_17 = Skeleton(
    names=(
        *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
        *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
        *("left_knee", "right_knee", "left_ankle", "right_ankle"),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    bones=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
        *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
        *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
)
"""COCO's person keypoints; sigmas as in pycocotools."""

LSP_14 = Skeleton(
    names=(
        *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
        *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
        *("neck", "head_top"),
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)),
    bones=(
        *((0, 1), (1, 2), (5, 4), (4, 3), (2, 3), (6, 7), (7, 8), (11, 10), (10, 9)),
        *((8, 12), (9, 12), (2, 8), (3, 9), (12, 13)),
    ),
    sigmas=(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.062, 0.072, 0.079, 0.079, 0.072, 0.062, 0.079, 0.079),
)
"""Leeds Sports Pose. No sigmas are published: COCO's for the limbs, CrowdPose's 0.079 for neck and head."""

MPII_16 = Skeleton(
    names=(
        *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
        *("pelvis", "thorax", "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder"),
        *("left_shoulder", "left_elbow", "left_wrist"),
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    bones=(
        *((0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9)),
        *((8, 12), (12, 11), (11, 10), (8, 13), (13, 14), (14, 15)),
    ),
    sigmas=(
        *(0.089, 0.083, 0.107, 0.107, 0.083, 0.089, 0.026, 0.026, 0.026, 0.026),
        *(0.062, 0.072, 0.179, 0.179, 0.072, 0.062),
    ),
)
"""MPII Human Pose. It is scored by PCKh; the sigmas are those that mmpose gives it."""

AIC_14 = Skeleton(
    names=(
        *("right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist"),
        *("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
        *("head_top", "neck"),
    ),
    flip_pairs=((0, 3), (1, 4), (2, 5), (6, 9), (7, 10), (8, 11)),
    bones=(
        *((2, 1), (1, 0), (0, 13), (13, 3), (3, 4), (4, 5), (8, 7), (7, 6), (6, 9), (9, 10), (10, 11)),
        *((12, 13), (0, 6), (3, 9)),
    ),
    sigmas=(
        *(0.01388152, 0.01515228, 0.01057665, 0.01417709, 0.01497891, 0.01402144, 0.03909642, 0.03686941),
        *(0.01981803, 0.03843971, 0.03412318, 0.02415081, 0.01291456, 0.01236173),
    ),
)
"""AI Challenger's people; sigmas are half the deltas of its keypoint_eval.py, for OKS doubles sigmas."""

CROWDPOSE_14 = Skeleton(
    names=(
        *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
        *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck"),
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    bones=(
        *((10, 8), (8, 6), (11, 9), (9, 7), (6, 7), (0, 6), (1, 7), (0, 1), (0, 2), (1, 3)),
        *((2, 4), (3, 5), (12, 13), (1, 13), (0, 13)),
    ),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
)
"""CrowdPose; sigmas as in its crowdpose-api. (The bones of its files are COCO's and name 17 keypoints.)"""


def to_category(skeleton: Skeleton, *, category_id: int = 1, name: str = "person") -> dict[str, Any]:
    """The COCO category of a skeleton; `category.from_category` gives the same skeleton back."""
    return {
        "id": category_id,
        "name": name,
        "supercategory": name,
        "keypoints": list(skeleton.names),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.bones],
        "flip_pairs": [list(pair) for pair in skeleton.flip_pairs],
        "sigmas": list(skeleton.sigmas),
    }
