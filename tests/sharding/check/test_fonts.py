"""No text on a picture is a row of boxes."""

import pytest
from PIL import ImageDraw, ImageFont

import semipose.sharding.check.fonts
from semipose.sharding.check.fonts import in_ascii, legible
from semipose.sharding.check.sheet import draw_person
from tests.sharding.check.test_sheet import with_joints


@pytest.fixture
def no_fonts(monkeypatch):
    """A machine with no font but the one that PIL brings."""
    semipose.sharding.check.fonts._font_with.cache_clear()
    monkeypatch.setattr(semipose.sharding.check.fonts, "_fonts", tuple)
    yield
    semipose.sharding.check.fonts._font_with.cache_clear()


def is_missing(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Whether the font draws the box that stands for letters it does not have."""
    return bytes(font.getmask(letter)) == bytes(font.getmask("\uffff"))


@pytest.mark.parametrize(
    "text", ["left eye", "œil gauche", "левый глаз", "αριστερό", "e\u0301paule", "høyre kne"]
)
def test_letters_of_alphabets_are_drawn(text):
    written, font = legible(text, 13)
    assert not any(is_missing(font, letter) for letter in written if not letter.isspace())
    assert len(written) <= len(text)


@pytest.mark.parametrize(
    ("text", "ascii_text"),
    [
        ("left eye", "left eye"),
        ("épaule", "epaule"),
        ("왼손", "oenson"),
        ("ひだり", "hidari"),
        ("左肩_1", r"\u5de6\u80a9_1"),
    ],
)
def test_without_a_font_texts_are_ascii(no_fonts, text, ascii_text):
    assert in_ascii(text) == ascii_text
    written, font = legible(text, 13)
    assert written == ascii_text
    assert not any(is_missing(font, letter) for letter in written if not letter.isspace())


def test_names_that_cannot_be_written_have_their_number(no_fonts, make_set, monkeypatch):
    texts = []
    text = ImageDraw.ImageDraw.text

    def noted(draw, xy, written, *args, **keys):
        texts.append(written)
        text(draw, xy, written, *args, **keys)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    points = [[60, 50, 2], [40, 80, 2], [70, 80, 2]]
    one, person = with_joints(make_set().source.read(), ["nose", "左肩", "손"], points)
    draw_person(person, one)
    assert texts[:3] == ["nose", r"#2  \u5de6\u80a9", "#3  son"]


def test_a_damaged_font_is_passed_over(tmp_path, monkeypatch):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    fonts = (str(broken), *semipose.sharding.check.fonts._fonts())
    monkeypatch.setattr(semipose.sharding.check.fonts, "_fonts", lambda: fonts)
    semipose.sharding.check.fonts._font_with.cache_clear()
    assert legible("глаз", 13)[0] == "глаз"
