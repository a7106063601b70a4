"""JPEG files with intact pixels in a faulty file, distinguished from those with faulty pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from semipose.configs.load import InputError
from semipose.sharding.samples.decode import MADE_SOUND, decode_photo, photo_sizes
from semipose.sharding.samples.jpeg import MOST_SCANS, decode_jpeg

END = b"\xff\xd9"


def encoded(seed, mode="RGB", **options):
    """A photo-like picture: noise at several scales."""
    rng = np.random.default_rng(seed)
    pixels = sum(
        np.asarray(Image.fromarray(rng.integers(0, 85, (size, size, 3), dtype=np.uint8)).resize((96, 96)))
        for size in (3, 12, 96)
    )
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def outcome(payload):
    """`sound`, `made sound` or `refused`."""
    try:
        return "made sound" if decode_jpeg(payload)[1] else "sound"
    except ValueError:
        return "refused"


FAULTY_WRAPPINGS = {
    "no end": lambda p: p[:-2],
    "half an end": lambda p: p[:-1],
    "nine bytes before the end": lambda p: p[:-2] + bytes(9) + END,
    "a thousand bytes before the end": lambda p: p[:-2] + b"junk" * 250 + END,
    "bytes in place of the end": lambda p: p[:-2] + b"\r\n",
    "bytes between two segments": lambda p: p[:20] + b"abc" + p[20:],
    "another version of JFIF": lambda p: p.replace(b"JFIF\0\1", b"JFIF\0\7"),
    "a second end": lambda p: p + END,
    "a film after the end": lambda p: p + bytes(range(256)) * 20,
}


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "L"}], ids=str)
@pytest.mark.parametrize("fault", FAULTY_WRAPPINGS)
def test_complete_pixels_are_taken_and_noted(fault, options):
    """They are those of the sound file, and what is stored is encoded anew."""
    for seed in range(3):
        payload = encoded(seed, **options)
        wanted = decode_photo(payload, size_wh=None, where="p")
        found = decode_photo(FAULTY_WRAPPINGS[fault](payload), size_wh=None, where="p")
        np.testing.assert_array_equal(found.pixels, wanted.pixels)
        assert wanted.notes == ()
        assert found.is_faithful == (found.notes == ())
        assert found.notes in ((), (MADE_SOUND,))
        if "after" not in fault and "second" not in fault:
            assert found.notes == (MADE_SOUND,)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
def test_missing_pixels_are_refused(options):
    """However little was cut off, with an end put after it or not."""
    for seed in range(3):
        payload = encoded(seed, **options)
        for length in (1, 2, 3, 7, 100, 1000):
            assert outcome(payload[: -2 - length]) == "refused"
            assert outcome(payload[: -2 - length] + END) == "refused"


def test_most_altered_pixels_are_refused_as_before():
    """What libjpeg does not notice is not noticed here; of what it does, next to nothing passes."""
    rng = np.random.default_rng(0)
    told = taken = 0
    for seed in range(4):
        payload = encoded(seed)
        first = payload.index(b"\xff\xda") + 14
        for _ in range(100):
            altered = bytearray(payload)
            altered[rng.integers(first, len(payload) - 20)] ^= 1 << rng.integers(8)
            told += outcome(bytes(altered)) != "sound"
            taken += outcome(bytes(altered)) == "made sound"
    assert told > 60
    assert taken < 0.35 * told


def with_scans(count):
    """A progressive picture whose last scan comes again and again."""
    payload = encoded(0, "L", progressive=True)
    last = payload[payload.rindex(b"\xff\xda") : -2]
    return payload[:-2] + last * (count - payload.count(b"\xff\xda")) + END


def with_exif(count):
    payload = encoded(0)
    return payload[:2] + (b"\xff\xe1\x00\x08Exif\0\0" * count) + payload[2:]


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (with_scans(2000), rf"2,000 scans of one picture, of which at most {MOST_SCANS} are"),
        (with_exif(50), "50 EXIF blocks"),
    ],
    ids=["scans", "exif"],
)
def test_small_files_that_take_minutes_are_refused_before_they_are_decoded(payload, says):
    """2,000 scans of 63 megapixels fit into 436 kB."""
    with pytest.raises(
        InputError, match=rf"^p: the image would take minutes to decode \({says}.*\): save it"
    ):
        decode_photo(payload, size_wh=None, where="p")
    with pytest.raises(ValueError, match=says):
        photo_sizes(payload)


def test_scans_of_other_pictures_in_the_file_do_not_count():
    """The preview in the EXIF block, and what a phone writes after the photo."""
    preview = b"Exif\0\0" + with_scans(MOST_SCANS - 1)
    block = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview
    photo = encoded(1, progressive=True)
    payload = photo[:2] + block + photo[2:] + b"\0\2" + with_scans(MOST_SCANS)
    np.testing.assert_array_equal(decode_jpeg(payload)[0], decode_jpeg(photo)[0])
    decode_photo(payload, size_wh=None, where="p")
