"""The DALI graphs of whole photos; graph.py has those of people, and what both have in common.

Each photo is decoded once for all its views. The size of a photo, from which its views are drawn, is read
from the header of its JPEG, so a graph without labels opens no other member of a sample.
"""

from contextlib import suppress

from semipose.pipelines.graph import (
    CROP,
    RECORD,
    Node,
    Reading,
    combine,
    decode,
    draw_flip,
    hand_over,
    normalise,
    read,
    show,
    warp,
)
from semipose.pipelines.photo_views import EVAL_MULTIPLE, PhotoPolicy, PhotoViewSettings
from semipose.sharding.samples.ignored_area import GRID
from semipose.sharding.samples.person import BOX_NUMBERS
from semipose.sharding.samples.photo import PEOPLE_HEAD

with suppress(ImportError):  # without DALI, graph.Reading refuses to be made
    from nvidia.dali import fn, math
    from nvidia.dali.types import DALIDataType

VERSION = 1
"""Increased when a change of a graph would make an old checkpoint continue a different stream."""


def draw_uniform(low: float, high: float) -> Node:
    """Draw a number from `low` to `high`, which may be equal."""
    return low + (high - low) * fn.random.uniform(range=(0.0, 1.0))


def draw_square(
    height: Node | float, width: Node | float, short: Node | float, policy: PhotoPolicy, side: int
) -> tuple[Node, Node]:
    """Draw `view_from_frame` (2, 3), for a view of `side` pixels, and whether it mirrors (int32, 0 or 1).

    height, width, short: of the frame, and the shorter of the two.
    """
    shown = draw_uniform(policy.shown_min, policy.shown_max) * short
    shift = policy.shift * shown
    centre_x = 0.5 * width + draw_uniform(-1.0, 1.0) * shift
    centre_y = 0.5 * height + draw_uniform(-1.0, 1.0) * shift
    angle = draw_uniform(-policy.rotation_max_deg, policy.rotation_max_deg)
    flip = draw_flip(policy.flip_probability)
    scale = side / shown
    matrix = fn.transforms.translation(offset=-fn.stack(centre_x, centre_y))
    matrix = fn.transforms.scale(matrix, scale=fn.stack(scale * (1.0 - 2.0 * flip), scale))
    matrix = fn.transforms.rotation(matrix, angle=angle)
    return fn.transforms.translation(matrix, offset=[side / 2, side / 2]), flip


def photo_size(jpeg: Node) -> tuple[Node, Node, Node]:
    """Return height, width and the shorter of the two of a stored photo as float32, from its header."""
    shape = fn.cast(fn.peek_image_shape(jpeg), dtype=DALIDataType.FLOAT)
    return shape[0], shape[1], math.min(shape[0], shape[1])


def labelled_photo_graph(
    reading: Reading, *, views: PhotoViewSettings, num_keypoints: int
) -> dict[str, Node]:
    """One view of each photo: image, people, mask, flipped, view_from_stored, stored_hw.

    people: the pose record without its ignored boxes, padded with zeros to the longest one of the batch.
    """
    types = [DALIDataType.UINT8, DALIDataType.FLOAT, DALIDataType.UINT8]
    jpeg, pose, mask = read(reading, ["jpg", "pose", "mask"], types)
    size = height, width, _ = photo_size(jpeg)
    view_from_stored, flip = draw_square(*size, views.labelled, views.size)
    numbers = fn.cast(pose[:PEOPLE_HEAD], dtype=DALIDataType.INT32)
    end = PEOPLE_HEAD + numbers[0] * (BOX_NUMBERS + 3 * num_keypoints)
    # A reshape fails for a record of another length, which another skeleton or damage has.
    whole = fn.reshape(pose, shape=fn.stack(end + numbers[1] * BOX_NUMBERS))
    shown = {"image": (view_from_stored, views.labelled.border)}
    outputs = {
        "people": fn.pad(fn.slice(whole, 0, end, axes=[0]), fill_value=0),
        "mask": fn.reshape(mask, shape=[GRID, GRID // 8]),
        "flipped": flip,
        "view_from_stored": view_from_stored,
        "stored_hw": fn.stack(height, width),
        **show(decode(jpeg, reading), shown, views.size_hw, reading),
    }
    return hand_over(outputs, reading)


def unlabelled_photo_graph(reading: Reading, *, views: PhotoViewSettings) -> dict[str, Node]:
    """Two views of each photo: weak, strong, strong_from_weak, both `from_stored`, stored_hw.

    Reads only `jpg`.
    """
    (jpeg,) = read(reading, ["jpg"], [DALIDataType.UINT8])
    size = height, width, _ = photo_size(jpeg)
    weak_from_stored, _ = draw_square(*size, views.weak, views.size)
    strong_from_weak, _ = draw_square(views.size, views.size, views.size, views.strong, views.size)
    strong_from_stored = combine(weak_from_stored, strong_from_weak)
    shown = {
        "weak": (weak_from_stored, views.weak.border),
        "strong": (strong_from_stored, views.strong.border),
    }
    outputs = {
        "weak_from_stored": weak_from_stored,
        "strong_from_weak": strong_from_weak,
        "strong_from_stored": strong_from_stored,
        "stored_hw": fn.stack(height, width),
        **show(decode(jpeg, reading), shown, views.size_hw, reading),
    }
    return hand_over(outputs, reading)


def eval_photo_graph(reading: Reading, *, views: PhotoViewSettings) -> dict[str, Node]:
    """The whole of each photo: image, view_from_stored, view_hw, record.

    The shorter side is shown on `views.size` pixels, the longer one on as many as the next multiple of 64
    has. Views of one batch are padded with 0, the mean colour, to the largest one.
    """
    jpeg, record = read(reading, ["jpg", "json"], [DALIDataType.UINT8, DALIDataType.UINT8])
    height, width, short = photo_size(jpeg)
    # Multiplied first, because a quotient that is a whole number is then exact and not rounded up.
    sides = [EVAL_MULTIPLE * math.ceil(views.size * side / short / EVAL_MULTIPLE) for side in (height, width)]
    # The centre is rounded as published (HigherHRNet, DEKR, CID).
    matrix = fn.transforms.translation(
        offset=-fn.stack(math.floor(0.5 * width + 0.5), math.floor(0.5 * height + 0.5))
    )
    matrix = fn.transforms.scale(matrix, scale=fn.stack(views.size / short, views.size / short))
    matrix = fn.transforms.translation(matrix, offset=fn.stack(0.5 * sides[1], 0.5 * sides[0]))
    view_hw = fn.stack(*sides)
    image = decode(jpeg, reading)
    outputs = {"view_from_stored": matrix, "view_hw": view_hw, RECORD: record}
    if reading.crops:
        outputs[CROP] = image
    else:
        outputs["image"] = fn.pad(normalise(warp(image, matrix, views.plain.border, view_hw)), fill_value=0)
    return hand_over(outputs, reading)
