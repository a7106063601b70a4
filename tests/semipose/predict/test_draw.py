"""Pictures of people: their files, and the line below them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from semipose.predict.draw import BAR_PX, COLOURS, draw_people, encode_picture
from semipose.predict.predictor import Predictor
from tests.semipose.models import person_model


def test_a_thin_line_keeps_its_colour_in_a_jpeg() -> None:
    line = np.array(COLOURS["left"], np.uint8)
    picture = np.full((64, 64, 3), COLOURS["right"], np.uint8)
    picture[:, 31] = line
    stored = Image.open(io.BytesIO(encode_picture(picture, Path("a.jpg"))))
    assert stored.format == "JPEG"
    assert np.abs(np.asarray(stored)[:, 31].astype(int) - line).max() < 30


def test_the_suffix_of_a_picture_names_its_format() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    formats = {"a.jpg": "JPEG", "a.JPEG": "JPEG", "a.png": "PNG", "a.webp": "WEBP", "a": "WEBP"}
    for name, kind in formats.items():
        stored = Image.open(io.BytesIO(encode_picture(picture, Path(name))))
        assert (stored.format, stored.size) == (kind, (30, 20)), name
    png = Image.open(io.BytesIO(encode_picture(picture, Path("a.png"))))
    assert np.array_equal(np.asarray(png), picture)


def test_the_line_below_a_picture_is_cut_at_its_edge_and_the_same_each_time() -> None:
    pose = Predictor(person_model())
    photo = np.zeros((480, 60, 3), np.uint8)
    people = pose(photo, boxes=[[5, 5, 40, 60]])
    first, again = draw_people(photo, people), draw_people(photo, people)
    assert first.shape == (480 + BAR_PX, 60, 3)
    assert np.array_equal(first, again)
    assert len(np.unique(first[-BAR_PX:].reshape(-1, 3), axis=0)) > 1
