import io

import cv2
import numpy as np
import pytest
from PIL import Image

from semipose.sharding.annotations.record import Person
from semipose.sharding.samples.crop import (
    PersonCrop,
    Region,
    WholePhoto,
    cut,
    encode_jpeg,
    image_from_stored,
    person_region,
    scale_down,
)
from semipose.sharding.samples.person import decode_pose, person_sample

SIZE_WH = (640, 480)


def person_with(points_xy, box_xywh, visible=2):
    keypoints = np.column_stack([points_xy, np.full(len(points_xy), visible)]).astype(np.float32)
    return Person(
        id=7,
        image_id=3,
        file_name="a.jpg",
        source_size_wh=SIZE_WH,
        box_xywh=box_xywh,
        keypoints=keypoints,
        area=1.0,
    )


def dotted_photo(points_xy, sigma_px=4.0):
    """A grey photo with a bright round dot exactly about each point."""
    ys, xs = np.mgrid[: SIZE_WH[1], : SIZE_WH[0]]
    light = sum(np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma_px**2)) for x, y in points_xy)
    return np.repeat((40 + 200 * light)[..., None].clip(0, 255).astype(np.uint8), 3, axis=2)


def dot_centre_xy(pixels, near_xy, radius):
    x0, y0 = (max(0, round(v - radius)) for v in near_xy)
    window = pixels[y0 : round(near_xy[1] + radius) + 1, x0 : round(near_xy[0] + radius) + 1, 0] - 40.0
    window = window.clip(8) - 8
    ys, xs = np.mgrid[: window.shape[0], : window.shape[1]]
    return x0 + (xs * window).sum() / window.sum(), y0 + (ys * window).sum() / window.sum()


@pytest.mark.parametrize("input_size_wh", [(192, 256), (48, 64), (64, 64), (72, 96)])
@pytest.mark.parametrize("box_xywh", [(200.3, 90.7, 150.2, 260.9), (5.5, 3.2, 300.0, 120.0)])
def test_dot_stays_at_its_keypoint(input_size_wh, box_xywh):
    """Through clipping, area scaling and JPEG, within 0.5 px of the source; scaling down was really done."""
    x, y, width, height = box_xywh
    points = np.array([[x + u * width, y + v * height] for u, v in [(0.15, 0.2), (0.5, 0.75), (0.85, 0.4)]])
    person = person_with(points, box_xywh)
    crop = PersonCrop(input_size_wh=input_size_wh)
    sample = person_sample(person, dotted_photo(points), None, crop)
    stored = np.asarray(Image.open(io.BytesIO(sample.jpg)))
    _, keypoints = decode_pose(sample.pose, 3)
    matrix = image_from_stored(person_region(box_xywh, SIZE_WH, crop))
    for annotated, (x_stored, y_stored, _) in zip(points, keypoints, strict=True):
        radius = 14 / matrix[0, 0]
        seen = np.array(dot_centre_xy(stored, (x_stored, y_stored), radius))
        assert np.abs(matrix[:, :2] @ seen + matrix[:, 2] - annotated).max() < 0.5
        assert np.abs(seen - (x_stored, y_stored)).max() < 0.25
    if input_size_wh[1] < 100:
        assert matrix[0, 0] > 1.5


def test_matrix_maps_stored_keypoints_and_box_back():
    rng = np.random.default_rng(1)
    for _ in range(50):
        x, y, width, height = (rng.random(4) * [400, 300, 230, 170]) + [0, 0, 2, 2]
        points = rng.random((17, 2)) * [width, height] + [x, y]
        person = person_with(points, (x, y, width, height))
        crop = PersonCrop(input_size_wh=(48, 64))
        sample = person_sample(person, np.zeros((480, 640, 3), np.uint8), None, crop)
        box, keypoints = decode_pose(sample.pose, 17)
        matrix = image_from_stored(person_region(person.box_xywh, SIZE_WH, crop))
        back = keypoints[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        np.testing.assert_allclose(back, person.keypoints[:, :2], atol=1e-3)
        np.testing.assert_allclose(box[:2] @ matrix[:, :2].T + matrix[:, 2], (x, y), atol=1e-3)
        np.testing.assert_allclose(box[2:] @ matrix[:, :2].T, (width, height), atol=1e-3)


def test_unlabelled_keypoints_are_zeros():
    person = person_with(np.array([[50.0, 60.0], [70.0, 80.0]]), (40, 50, 60, 70), visible=0)
    sample = person_sample(person, np.zeros((480, 640, 3), np.uint8), None, PersonCrop())
    assert not decode_pose(sample.pose, 2)[1].any()


def test_region_is_the_margin_square_about_the_box():
    region = person_region((300, 200, 30, 80), SIZE_WH, PersonCrop(margin=1.5))
    side = 1.5 * 1.25 * 80
    assert (region.left, region.top) == (int(315 - side / 2), int(240 - side / 2))
    assert region.right - region.left == pytest.approx(side, abs=2.01)
    assert region.bottom - region.top == pytest.approx(side, abs=2.01)
    assert region.stored_wh == (region.right - region.left, region.bottom - region.top)


def test_wide_box_is_corrected_to_the_aspect():
    region = person_region((250, 230, 90, 20), SIZE_WH, PersonCrop(margin=1.0))
    assert region.bottom - region.top == pytest.approx(1.25 * 90 / 0.75, abs=2.01)


def test_region_is_clipped_and_scaled_only_down():
    crop = PersonCrop(input_size_wh=(96, 128), oversample=1.0)
    region = person_region((0, 0, 639, 479), SIZE_WH, crop)
    assert region[:4] == (0, 0, 640, 480)
    scale = 128 / (1.25 * 639 / 0.75)
    assert region.stored_wh == (round(640 * scale), round(480 * scale))
    assert person_region((300, 200, 1, 1), SIZE_WH, crop).stored_wh[0] >= 2


@pytest.mark.parametrize("box_xywh", [(-80.0, -60.0, 100.0, 90.0), (630.0, 470.0, 50.0, 60.0)])
def test_box_across_the_border(box_xywh):
    region = person_region(box_xywh, SIZE_WH, PersonCrop())
    pixels = cut(np.zeros((480, 640, 3), np.uint8), region)
    assert pixels.shape[:2] == region.stored_wh[::-1]
    assert min(pixels.shape) > 0


def test_default_margin_covers_the_strong_view_as_documented():
    """The shares in PersonCrop's docstring, from methods of the published policies, drawn anew."""
    rng = np.random.default_rng(0)
    n = 4000

    def zoom():
        return np.clip(1 + 0.25 * rng.standard_normal(n), 0.75, 1.25)

    def turn_deg(share):
        return np.where(rng.random(n) < share, np.clip(30 * rng.standard_normal(n), -60, 60), 0)

    u, v = np.meshgrid(np.linspace(-0.375, 0.375, 25), np.linspace(-0.5, 0.5, 33))

    def outside(scale, angle, margin):
        cos, sin = np.cos(np.deg2rad(angle))[:, None], np.sin(np.deg2rad(angle))[:, None]
        x = scale[:, None] * (u.ravel() * cos - v.ravel() * sin)
        y = scale[:, None] * (u.ravel() * sin + v.ravel() * cos)
        return (np.maximum(np.abs(x), np.abs(y)) > margin / 2).mean()

    weak, weak_turn = zoom(), turn_deg(0.6)
    strong, strong_turn = weak * zoom(), weak_turn + turn_deg(0.8)
    margin = PersonCrop().margin
    assert outside(weak, weak_turn, margin) < 0.001
    assert 0.004 < outside(strong, strong_turn, margin) < 0.01
    assert outside(strong, strong_turn, 1.25) > 0.03


def test_whole_photo_keeps_the_bytes_or_encodes_what_was_seen():
    photo = dotted_photo([(320, 240)])
    payload = encode_jpeg(photo)
    person = person_with(np.array([[320.0, 240.0]]), (300, 200, 40, 80))
    kept = person_sample(person, photo, payload, WholePhoto())
    assert kept.jpg == payload
    np.testing.assert_array_equal(decode_pose(kept.pose, 1)[1], [[320, 240, 2]])
    assert person_sample(person, photo, None, WholePhoto()).jpg == payload


@pytest.mark.parametrize("ratio", [0.97, 0.8, 0.71, 0.6, 0.45, 0.34, 0.2])
def test_scaling_down_keeps_every_place(ratio):
    """Each pixel of a ramp says where it was; a stored one says what `image_from_stored` says."""
    height, width = 240, 250
    y, x = np.mgrid[:height, :width].astype(np.float32)
    stored_wh = (round(width * ratio), round(height * ratio))
    stored = scale_down(np.stack([x, y, x], axis=2), stored_wh)
    matrix = image_from_stored(Region(0, 0, width, height, stored_wh))
    expected = [matrix[i, i] * np.arange(stored_wh[i]) + matrix[i, 2] for i in (0, 1)]
    inside = np.s_[1:-1, 1:-1]
    np.testing.assert_allclose(stored[inside][..., 0] - expected[0][None, 1:-1], 0, atol=0.02)
    np.testing.assert_allclose(stored[inside][..., 1] - expected[1][1:-1, None], 0, atol=0.02)


@pytest.mark.parametrize("ratio", [0.95, 0.8, 0.7, 0.6, 0.45, 0.35])
def test_scaling_down_is_as_good_as_area_interpolation(shared_data, ratio):
    """Against Lanczos: within 1.8 dB of OpenCV's area interpolation, or better, on real photos."""
    paths = sorted((shared_data / "coco" / "images" / "val2017").glob("*.jpg"))[:8]
    noise = {"ours": 0.0, "area": 0.0}
    for path in paths:
        photo = np.asarray(Image.open(path).convert("RGB"))
        size_wh = (round(photo.shape[1] * ratio), round(photo.shape[0] * ratio))
        best = np.asarray(Image.fromarray(photo).resize(size_wh, Image.Resampling.LANCZOS), float)
        noise["ours"] += ((scale_down(photo, size_wh) - best) ** 2).mean()
        noise["area"] += ((cv2.resize(photo, size_wh, interpolation=cv2.INTER_AREA) - best) ** 2).mean()
    assert 10 * np.log10(noise["ours"] / noise["area"]) < 1.8
