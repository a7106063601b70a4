from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs
from PIL import Image, ImageDraw

import semipose.sharding.check.sheet
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.sharding.check.draw_pose import COLOURS
from semipose.sharding.check.sheet import TILE_WH, draw_person, draw_sheet, frame, short_name


@pytest.fixture
def annotations(make_set):
    return make_set().source.read()


def with_joints(annotations, names, points, flip_pairs=()):
    """The annotations with one person alone, of joints without bones."""
    sigmas = (0.05,) * len(names)
    skeleton = Skeleton(names=tuple(names), flip_pairs=tuple(flip_pairs), bones=(), sigmas=sigmas)
    person = structs.replace(annotations.persons[0], keypoints=np.asarray(points, np.float32))
    return replace(annotations, skeleton=skeleton, persons=(person,)), person


@pytest.mark.parametrize(
    ("name", "side", "short"),
    [
        ("left_big_toe", "left", "L big toe"),
        ("RightEye", "right", "RightEye"),
        ("r_wrist", "right", "R wrist"),
        ("ankle-l", "left", "L ankle"),
        ("head_top", None, "head top"),
        ("left", "left", "left"),
    ],
)
def test_short_name(name, side, short):
    assert short_name(name, side) == short


class TestFrame:
    def test_box_and_padding_fill_the_tile(self, annotations):
        person = structs.replace(
            annotations.persons[0], box_xywh=(10.0, 20.0, 40.0, 80.0), keypoints=np.zeros((17, 3))
        )
        corners = frame(person).place(np.array([[10, 20], [50, 100]]))
        np.testing.assert_allclose(corners.mean(axis=0), (np.array(TILE_WH) - 1) / 2)
        np.testing.assert_allclose(corners[1] - corners[0], np.array([40, 80]) * TILE_WH[1] / (80 * 1.24))

    @pytest.mark.parametrize(("x", "is_shown"), [(150, True), (10_000, False)])
    def test_far_joints_are_shown_within_reason(self, annotations, x, is_shown):
        keypoints = np.zeros((17, 3))
        keypoints[0] = x, 30, 2
        person = structs.replace(
            annotations.persons[0], box_xywh=(10.0, 20.0, 40.0, 80.0), keypoints=keypoints
        )
        view = frame(person)
        assert (view.place(keypoints[0, :2])[0] < TILE_WH[0]) == is_shown
        assert view.scale > 0.8


class TestPerson:
    @pytest.mark.parametrize(("joint", "side"), [(0, "left"), (1, "right"), (2, None)])
    def test_a_joint_is_drawn_at_its_place_in_the_colour_of_its_side(self, annotations, joint, side):
        for v, is_full in ((2, True), (1, False)):
            points = np.zeros((3, 3))
            points[joint] = 60, 50, v
            one, person = with_joints(annotations, ["left_hip", "right_hip", "nose"], points, [(0, 1)])
            tile = np.asarray(draw_person(person, one)).astype(int)
            x, y = np.rint(frame(person).place(np.array([60, 50]))).astype(int)
            is_coloured = np.abs(tile[y, x] - COLOURS[side]).max() < 40
            assert is_coloured == is_full

    def test_unlabelled_joint_is_not_drawn(self, annotations):
        one, person = with_joints(annotations, ["nose", "left_eye"], [[60, 50, 2], [70, 50, 0]])
        without, alone = with_joints(annotations, ["nose"], [[60, 50, 2]])
        np.testing.assert_array_equal(draw_person(person, one), draw_person(alone, without))

    def test_picture_lies_under_the_joints(self, make_set):
        """A white pixel of the photo, enlarged, shows about the joint that is annotated there."""
        small = make_set(photos=1)
        pixels = np.zeros((150, 200, 3), np.uint8)
        pixels[50, 60] = 255
        Image.fromarray(pixels).save(small.images / "000000000001.png")
        small.content["images"][0]["file_name"] = "000000000001.png"
        small.save()
        one, person = with_joints(small.source.read(), ["nose"], [[60, 50, 0]])
        person = structs.replace(person, box_xywh=(45.0, 40.0, 30.0, 40.0))
        bright = np.asarray(draw_person(person, one).convert("L"))[: TILE_WH[1]] > 250
        # The spot alone, not the box's lines.
        x, y = frame(person).place(np.array([60, 50]))
        near = bright[round(y) - 12 : round(y) + 13, round(x) - 12 : round(x) + 13]
        rows, columns = np.nonzero(near)
        assert abs(rows.mean() - 12) < 1
        assert abs(columns.mean() - 12) < 1

    @pytest.mark.parametrize("count", [1, 21, 133])
    def test_any_number_of_joints(self, annotations, count, monkeypatch):
        """Names never cover each other; with few joints none is left out."""
        boxes = []
        text = ImageDraw.ImageDraw.text

        def noted(draw, xy, name, fill, font, **keys):
            if keys:  # the caption has none
                boxes.append(draw.textbbox(xy, name, font=font, stroke_width=keys["stroke_width"]))
            text(draw, xy, name, fill, font, **keys)

        monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
        rng = np.random.default_rng(0)
        points = np.column_stack([rng.uniform(40, 80, count), rng.uniform(20, 100, count), np.full(count, 2)])
        one, person = with_joints(annotations, [f"joint_{number}" for number in range(count)], points)
        draw_person(person, one)
        assert len(boxes) == count if count < 30 else len(boxes) > 20
        for index, a in enumerate(boxes):
            assert not any(semipose.sharding.check.sheet._overlap(a, b) for b in boxes[:index])


class TestSheet:
    def test_seed_chooses_the_people(self, make_set, tmp_path):
        annotations = make_set(photos=20).source.read()
        pictures = []
        for number, seed in enumerate([0, 0, 1]):
            path = tmp_path / f"{number}.jpg"
            assert draw_sheet(path, annotations, unusable=set(), seed=seed)
            pictures.append(path.read_bytes())
        assert pictures[0] == pictures[1] != pictures[2]

    def test_unusable_photos_are_left_out(self, annotations, tmp_path):
        names = sorted({person.file_name for person in annotations.persons})
        (tmp_path / "set" / "images" / names[0]).unlink()
        path = tmp_path / "sheet.jpg"
        assert draw_sheet(path, annotations, unusable={names[0]}, seed=0)
        with Image.open(path) as sheet:
            assert sheet.height < 3 * TILE_WH[1]
        path.unlink()
        assert not draw_sheet(path, annotations, unusable=set(names), seed=0)
        assert not path.exists()
