"""JPEG files decoded strictly; taken are also those whose pixels are all there in a faulty wrapping."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg

MOST_SCANS = 40
"""How often a decoder may have to go over one picture: a file of 0.4 MB can ask for thousands of times, each
of which takes a tenth of a second at 64 megapixels. Encoders write 1 to 18."""
_MOST_EXIF = 40
"""EXIF blocks of one file, which PIL joins in a time that grows with the square of their number."""

_SOI, _EOI, _SOS, _APP0, _APP1 = b"\xff\xd8", b"\xff\xd9", 0xDA, 0xE0, 0xE1
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers that no length follows: TEM, RST0 to RST7 and SOI."""
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Any marker but RST0 to RST7, which stand among the coded pixels."""
_EXTRANEOUS = "extraneous bytes before marker 0xd9"  # as libjpeg warns; 0xd9 is the end


class _Segment(NamedTuple):
    """A marker and where its bytes lie; those of a scan include the coded pixels after its header."""

    marker: int
    start: int
    end: int


def decode_jpeg(payload: bytes) -> tuple[np.ndarray, bool]:
    """Decode a JPEG to (H, W, 3) uint8 RGB; also whether the file had to be made sound for it.

    Strict: whatever libjpeg warns of is refused, because PIL's own reader lets altered pixels pass. Taken all
    the same is a file whose pixels are complete and which decodes without a warning once its wrapping is put
    right: bytes that belong to no marker, a missing end, an unknown version of JFIF. Raises ValueError.
    """
    try:
        return _decode(payload), False
    except ValueError as error:
        try:
            return _decode(_make_sound(payload)), True
        except ValueError:
            raise error from None


def find_excess(payload: bytes) -> str | None:
    """Say what a JPEG has so much of that to decode it would take minutes; None for any other file."""
    if not payload.startswith(_SOI):
        return None
    scans = exif = 0
    for marker, start, _ in _segments(payload):
        scans += marker == _SOS
        exif += marker == _APP1 and payload.startswith(b"Exif", start + 4)
    if scans > MOST_SCANS:
        return f"{scans:,} scans of one picture, where {MOST_SCANS} are the most"
    return f"{exif:,} EXIF blocks" if exif > _MOST_EXIF else None


def _decode(payload: bytes) -> np.ndarray:
    pixels: np.ndarray = simplejpeg.decode_jpeg(payload, "RGB", strict=True)
    return pixels


def _make_sound(payload: bytes) -> bytes:
    """The segments of a file alone, with an end. Raises ValueError where pixels may be altered or missing."""
    sound = bytearray(_SOI)
    last_scan = 0
    for segment in _segments(payload):
        if segment.marker == _SOS:
            last_scan = len(sound)
        piece = bytearray(payload[segment.start : segment.end])
        if segment.marker == _APP0 and piece[4:9] == b"JFIF\0":
            piece[9] = 1  # the major version
        sound += piece
    try:
        _decode(bytes(sound + _EOI))
    except ValueError as error:
        if _EXTRANEOUS not in str(error):
            raise
        return _cut_extraneous(bytes(sound), last_scan)
    return bytes(sound + _EOI)


def _cut_extraneous(without_end: bytes, last_scan: int) -> bytes:
    """The file without the bytes that follow its coded pixels; ValueError where these may be pixels too.

    last_scan: where the last scan starts. A byte altered among the coded pixels makes a decoder lose its
    place, and it may be done before their end. So the end that it found must look like one: encoders fill the
    last byte up with bits of 1. (Of altered COCO photos that libjpeg warns of, this takes one in six.)
    """

    def is_enough(end: int) -> bool:
        try:
            _decode(without_end[:end] + _EOI)
        except ValueError as error:
            return _EXTRANEOUS in str(error)
        return True

    ends = range(last_scan, len(without_end) + 1)
    coded = without_end[: ends[bisect_left(ends, True, key=is_enough)]]
    pixels = _decode(coded + _EOI)
    for bit in range(7):
        try:
            other = _decode(coded[:-1] + bytes([coded[-1] ^ 1 << bit]) + _EOI)
        except ValueError:
            break
        if not np.array_equal(other, pixels):
            break  # the last bit that a pixel is coded by
        if not coded[-1] >> bit & 1:
            raise ValueError("the coded pixels may go on")
    return coded + _EOI


def _segments(payload: bytes) -> Iterator[_Segment]:
    """The marker segments up to the end of the first picture, as libjpeg finds them."""
    place = len(_SOI)
    while found := _MARKER.search(payload, place):
        start, marker = found.start(), payload[found.start() + 1]
        if marker == _EOI[1]:
            return
        if marker in _ALONE:
            place = start + 2
            continue
        place = start + 2 + int.from_bytes(payload[start + 2 : start + 4], "big")
        if marker == _SOS:
            after = _AFTER_SCAN.search(payload, place)
            place = after.start() if after else len(payload)
        yield _Segment(marker, start, min(place, len(payload)))
