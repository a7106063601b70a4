import io
import pickle
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image

from semipose.configs.load import InputError
from semipose.sharding.samples.decode import MOST_PIXELS, decode_photo


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
    photo, is_faithful, _ = decode_photo(encoded(pixels, kind, mode=mode), size_wh=(40, 30), where="p")
    assert photo.shape == (30, 40, 3)
    assert photo.dtype == np.uint8
    assert is_faithful


class TestOrientation:
    def test_stored_size_wins_and_exif_is_not_obeyed(self, pixels):
        photo, is_faithful, _ = decode_photo(encoded(pixels, orientation=6), size_wh=(40, 30), where="p")
        np.testing.assert_array_equal(photo, decode_photo(encoded(pixels), size_wh=(40, 30), where="p")[0])
        assert not is_faithful

    def test_turned_where_only_that_gives_the_annotated_size(self, pixels):
        photo, is_faithful, _ = decode_photo(encoded(pixels, orientation=6), size_wh=(30, 40), where="p")
        np.testing.assert_array_equal(
            photo, np.rot90(decode_photo(encoded(pixels), size_wh=None, where="p")[0], -1)
        )
        assert not is_faithful

    def test_unknown_size_takes_the_stored_pixels(self, pixels):
        assert decode_photo(encoded(pixels, orientation=6), size_wh=None, where="p")[0].shape == (30, 40, 3)


def test_other_size_is_refused(pixels):
    with pytest.raises(InputError, match="p: the image is 40x30, but it was annotated at 41x30"):
        decode_photo(encoded(pixels), size_wh=(41, 30), where="p")


@pytest.mark.parametrize("damage", ["cut", "last three bytes", "no header", "empty", "text"])
def test_damage_is_refused(pixels, damage):
    rng = np.random.default_rng(0)
    payload = encoded(rng.integers(0, 255, (300, 400, 3), dtype=np.uint8))
    damaged = {
        "cut": payload[: len(payload) // 2],
        "last three bytes": payload[:-3],
        "no header": payload[:2] + bytes(400) + payload[402:],
        "empty": b"",
        "text": b"<html>404</html>" * 9,
    }[damage]
    with pytest.raises(InputError, match=r"^photo 7: the image is damaged \(.+\): replace the file"):
        decode_photo(damaged, size_wh=(400, 300), where="photo 7")


@pytest.mark.parametrize(("kind", "mode"), [("GIF", "P"), ("TIFF", "RGB"), ("TIFF", "CMYK")])
def test_kinds_that_the_reader_of_shards_may_not_know(pixels, kind, mode):
    photo, is_faithful, _ = decode_photo(encoded(pixels, kind, mode=mode), size_wh=(40, 30), where="p")
    assert np.abs(photo.astype(int) - pixels).mean() < 20
    assert not is_faithful


def test_phone_photo_with_a_second_picture(pixels):
    """The first picture of an MPO is the photo."""
    second = Image.fromarray(255 - pixels)
    payload = encoded(pixels, "MPO", save_all=True, append_images=[second], quality=95, subsampling=0)
    photo, is_faithful, _ = decode_photo(payload, size_wh=(40, 30), where="p")
    assert np.abs(photo.astype(int) - pixels).mean() < 2
    assert is_faithful


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_pictures_are_refused(pixels, kind):
    payload = encoded(pixels, kind, save_all=True, append_images=[Image.fromarray(255 - pixels)])
    with pytest.raises(InputError, match=r"^p: the file holds several pictures: keep the one"):
        decode_photo(payload, size_wh=(40, 30), where="p")


@pytest.mark.parametrize("kind", ["EPS", "PPM", "ICO", "TGA"])
def test_formats_of_no_photos_are_refused(pixels, kind):
    said = {"EPS": "it is PostScript, which", "ICO": r"it is an icon \(ICO\), which"}
    reason = said.get(kind, "no image format that can be read")
    with pytest.raises(InputError, match=rf"^p: the image is damaged \({reason}"):
        decode_photo(encoded(pixels, kind), size_wh=(40, 30), where="p")


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_refused(suffix, channels):
    payload = cv2.imencode(suffix, np.full((30, 40, channels), 30000, np.uint16))[1].tobytes()
    with pytest.raises(InputError, match="more than 8 bits"):
        decode_photo(payload, size_wh=(40, 30), where="p")


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\0\0\0\x20ftypisom", r"a film \(MP4\)"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><title>404", "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (b"no photo", "text"),
        (b"../store/0001.jpg", r"the text of a link to '../store/0001\.jpg'"),
        (b"PK\3\4", "a zip"),
    ],
)
def test_other_files_are_named_by_their_first_bytes(start, kind):
    with pytest.raises(
        InputError, match=rf"^p: the image is damaged \(it is {kind}, which is not read here\)"
    ):
        decode_photo(start + bytes(range(256)) * ("text" not in kind), size_wh=None, where="p")


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def claim_jpeg(payload, width, height):
    at = payload.index(b"\xff\xc0")
    return payload[: at + 5] + struct.pack(">HH", height, width) + payload[at + 9 :]


def claim_png(payload, width, height):
    header = png_chunk(b"IHDR", struct.pack(">II", width, height) + payload[24:29])
    return payload[:8] + header + payload[33:]


def claim_bmp(payload, width, height):
    return payload[:18] + struct.pack("<ii", width, height) + payload[26:]


def claim_gif(payload, width, height):
    return payload[:6] + struct.pack("<HH", width, height) + payload[10:]


def claim_tiff(payload, width, height):
    """The first two tags are width and height, both 32 bits."""
    at = struct.unpack("<I", payload[4:8])[0] + 2
    tags = struct.pack("<HHII", 256, 4, 1, width) + struct.pack("<HHII", 257, 4, 1, height)
    return payload[:at] + tags + payload[at + 24 :]


def claim_webp(payload, width, height):
    """Lossless: 14 bits each of width - 1 and height - 1 after the signature byte."""
    at = payload.index(b"VP8L") + 9
    bits = struct.unpack("<I", payload[at : at + 4])[0] >> 28 << 28 | (height - 1) << 14 | (width - 1)
    return payload[:at] + struct.pack("<I", bits) + payload[at + 4 :]


CLAIMS = {
    "JPEG": (claim_jpeg, 60_000, 60_000, r"\(Image size \(3600000000 pixels\)\)"),
    "JPEG below the limit of PIL": (claim_jpeg, 10_000, 10_000, r"\(10000x10000\)"),
    "PNG": (claim_png, 60_000, 60_000, r"\(Image size \(3600000000 pixels\)\)"),
    "PNG of one row": (claim_png, 2**31 - 1, 1, r"\(Image size \(2147483647 pixels\)\)"),
    "BMP": (claim_bmp, 60_000, 60_000, r"\(Image size \(3600000000 pixels\)\)"),
    "GIF": (claim_gif, 60_000, 60_000, r"\(Image size \(3600000000 pixels\)\)"),
    "TIFF": (claim_tiff, 60_000, 60_000, r"\(Image size \(3600000000 pixels\)\)"),
    "WEBP": (claim_webp, 16_000, 16_000, r"\(Image size \(256000000 pixels\)\)"),
}


def hostile_payloads():
    pixels = np.zeros((30, 40, 3), np.uint8)
    options = {"WEBP": {"lossless": True}, "GIF": {"mode": "P"}}
    for name, (claim, width, height, said) in CLAIMS.items():
        kind = name.split()[0]
        payload = encoded(pixels, kind, **options.get(kind, {}))
        refusal = f"^p: the image is too large {said}, at most 64,000,000"
        if kind == "WEBP" and int(PIL.__version__.split(".")[0]) < 13:
            # Its reader asks for the whole canvas before it tells the size, which the limit here refuses.
            refusal = r"^p: the image is damaged \(could not create decoder object\)"
        yield name, claim(payload, width, height), refusal
    png = encoded(pixels, "PNG")
    bomb = zlib.compress(bytes(400_000_000), 1)
    sentence = r"^p: the image is damaged \(Decompressed data too large.*\): replace the file"
    for kind, start in ((b"iCCP", b"n\0\0"), (b"zTXt", b"n\0\0"), (b"iTXt", b"n\0\1\0\0\0")):
        yield kind.decode(), png[:33] + png_chunk(kind, start + bomb) + png[33:], sentence
    header = struct.pack(">IIBBBBB", 40, 30, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header), png_chunk(b"IDAT", bomb), png_chunk(b"IEND", b"")
    yield "IDAT", b"\x89PNG\r\n\x1a\n" + b"".join(chunks), None


BOUNDED = """
import pickle, resource, sys
from semipose.configs.load import InputError
from semipose.sharding.samples.decode import decode_photo
decode_photo(sys.stdin.buffer.read(int(sys.argv[1])), size_wh=None, where="p")
payloads = pickle.load(sys.stdin.buffer)
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 100_000_000,) * 2)
for payload in payloads:
    try:
        decode_photo(payload, size_wh=None, where="p")
        print("decoded")
    except InputError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_small_files_that_unpack_to_much(pixels):
    """All are refused within 100 MB; what they claim would take from 0.3 to 11 GB."""
    names, payloads, sentences = zip(*hostile_payloads(), strict=True)
    first = encoded(pixels, "WEBP")  # loads all of PIL's readers
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(len(first))],
        input=first + pickle.dumps(payloads),
        capture_output=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    said = dict(zip(names, done.stdout.decode().splitlines(), strict=True))
    for name, sentence in zip(names, sentences, strict=True):
        assert re.search(sentence, said[name]) if sentence else said[name] == "decoded", (name, said[name])


def test_the_largest_photo(monkeypatch, pixels):
    assert MOST_PIXELS >= 8192 * 6144, "50-megapixel cameras are on sale"
    monkeypatch.setattr("semipose.sharding.samples.decode.MOST_PIXELS", 40 * 30)
    decode_photo(encoded(pixels), size_wh=None, where="p")
    monkeypatch.setattr("semipose.sharding.samples.decode.MOST_PIXELS", 40 * 30 - 1)
    with pytest.raises(InputError, match=r"too large .40x30., at most 1,199 pixels"):
        decode_photo(encoded(pixels), size_wh=None, where="p")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_any_damage_is_described_in_a_sentence(pixels, kind):
    """Bytes altered and files cut at random end as pixels or as an InputError, never as another error."""
    rng = np.random.default_rng(7)
    payload = np.frombuffer(
        encoded(pixels, kind, orientation=None if kind in ("BMP", "GIF") else 6), np.uint8
    )
    told = 0
    for _ in range(150):
        damaged = payload.copy()
        places = rng.integers(0, min(len(payload), rng.choice([60, 400, 10_000])), 5)
        damaged[places] = rng.choice([0, 255, rng.integers(0, 256)], 5)
        try:
            photo, *_ = decode_photo(
                damaged[: rng.integers(1, 2 * len(payload))].tobytes(), size_wh=None, where="p"
            )
            assert photo.ndim == 3
        except InputError:
            told += 1
    assert told > 50
