import io

import numpy as np
import pytest
from PIL import Image

from configs.load import InputError
from sharding.check import decode_photo


def encoded(pixels, kind="JPEG", orientation=None, mode="RGB", **options):
    image = Image.fromarray(pixels).convert(mode)
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def pixels():
    ramp = np.add.outer(np.arange(30) * 3, np.arange(40) * 2).astype(np.uint8)
    return np.stack([ramp, ramp[::-1], 255 - ramp], axis=2)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "RGBA"), ("WEBP", "RGB")],
)
def test_every_kind_becomes_rgb(pixels, kind, mode):
    photo, is_faithful = decode_photo(encoded(pixels, kind, mode=mode), size_wh=(40, 30), where="p")
    assert photo.shape == (30, 40, 3)
    assert photo.dtype == np.uint8
    assert is_faithful


class TestOrientation:
    def test_stored_size_wins_and_exif_is_not_obeyed(self, pixels):
        photo, is_faithful = decode_photo(encoded(pixels, orientation=6), size_wh=(40, 30), where="p")
        np.testing.assert_array_equal(photo, decode_photo(encoded(pixels), size_wh=(40, 30), where="p")[0])
        assert not is_faithful

    def test_turned_where_only_that_gives_the_annotated_size(self, pixels):
        photo, is_faithful = decode_photo(encoded(pixels, orientation=6), size_wh=(30, 40), where="p")
        np.testing.assert_array_equal(
            photo, np.rot90(decode_photo(encoded(pixels), size_wh=None, where="p")[0], -1)
        )
        assert is_faithful

    def test_unknown_size_takes_the_stored_pixels(self, pixels):
        assert decode_photo(encoded(pixels, orientation=6), size_wh=None, where="p")[0].shape == (30, 40, 3)


def test_other_size_is_refused(pixels):
    with pytest.raises(InputError, match="p: the image is 40x30, but it was annotated at 41x30"):
        decode_photo(encoded(pixels), size_wh=(41, 30), where="p")


@pytest.mark.parametrize("damage", ["cut", "last two bytes", "no header", "empty", "text"])
def test_damage_is_refused(pixels, damage):
    rng = np.random.default_rng(0)
    payload = encoded(rng.integers(0, 255, (300, 400, 3), dtype=np.uint8))
    damaged = {
        "cut": payload[: len(payload) // 2],
        "last two bytes": payload[:-2],
        "no header": payload[:2] + bytes(400) + payload[402:],
        "empty": b"",
        "text": b"<html>404</html>" * 9,
    }[damage]
    with pytest.raises(InputError, match=r"^photo 7: the image is damaged \(.+\): replace the file"):
        decode_photo(damaged, size_wh=(400, 300), where="photo 7")


def test_sixteen_bits_are_refused():
    buffer = io.BytesIO()
    Image.fromarray(np.full((30, 40), 30000, np.uint16)).save(buffer, "PNG")
    with pytest.raises(InputError, match="more than 8 bits"):
        decode_photo(buffer.getvalue(), size_wh=(40, 30), where="p")
