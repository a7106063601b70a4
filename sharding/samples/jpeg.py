"""Decodes JPEG files strictly, but accepts those with complete pixels in a faulty container."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg

MOST_SCANS = 40
"""Largest number of scans of one picture: a file of 0.4 MB can have thousands, each of which takes a tenth of
a second at 64 megapixels. Encoders write 1 to 18."""
_MOST_EXIF = 40
"""Largest number of EXIF blocks of one file; PIL joins them in time that grows with their square."""

_SOI, _EOI, _SOS, _APP0, _APP1 = b"\xff\xd8", b"\xff\xd9", 0xDA, 0xE0, 0xE1
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length: TEM, RST0 to RST7 and SOI."""
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Any marker except RST0 to RST7, which occur among the coded pixels."""
_EXTRANEOUS = "extraneous bytes before marker 0xd9"  # a warning of libjpeg; 0xd9 is the end


class _Segment(NamedTuple):
    """A marker and the range of its bytes, which for a scan includes the coded pixels after its header."""

    marker: int
    start: int
    end: int


def decode_jpeg(payload: bytes) -> tuple[np.ndarray, bool]:
    """Decode a JPEG to (H, W, 3) uint8 RGB; also returns whether the file had to be repaired for it.

    Decoding is strict: a warning of libjpeg is an error, because PIL's own reader accepts altered pixels.
    Files are accepted, though, whose pixels are complete and which decode without a warning after a repair of
    the container: bytes that belong to no marker, a missing end, an unknown version of JFIF. Raises
    ValueError.
    """
    try:
        return _decode(payload), False
    except ValueError as error:
        try:
            return _decode(_make_sound(payload)), True
        except ValueError:
            raise error from None


def find_excess(payload: bytes) -> str | None:
    """What a JPEG has so many of that decoding would take minutes; None for any other file."""
    if not payload.startswith(_SOI):
        return None
    scans = exif = 0
    for marker, start, _ in _segments(payload):
        scans += marker == _SOS
        exif += marker == _APP1 and payload.startswith(b"Exif", start + 4)
    if scans > MOST_SCANS:
        return f"{scans:,} scans of one picture, of which at most {MOST_SCANS} are allowed"
    return f"{exif:,} EXIF blocks" if exif > _MOST_EXIF else None


def _decode(payload: bytes) -> np.ndarray:
    pixels: np.ndarray = simplejpeg.decode_jpeg(payload, "RGB", strict=True)
    return pixels


def _make_sound(payload: bytes) -> bytes:
    """Only the segments of a file, with an end. Raises ValueError if pixels may be altered or missing."""
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
    """The file without the bytes after its coded pixels. Raises ValueError if these may be pixels too.

    last_scan: the start of the last scan. If a byte among the coded pixels is altered, a decoder loses its
    position and may finish before their end. So the end that it found must look like a real one: encoders
    fill the last byte with bits of 1. (Of altered COCO photos that libjpeg warns about, this accepts one in
    six.)
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
            break  # the last bit that codes a pixel
        if not coded[-1] >> bit & 1:
            raise ValueError("the coded pixels may continue")
    return coded + _EOI


def _segments(payload: bytes) -> Iterator[_Segment]:
    """The marker segments up to the end of the first picture, as libjpeg finds them."""
    position = len(_SOI)
    while match := _MARKER.search(payload, position):
        start, marker = match.start(), payload[match.start() + 1]
        if marker == _EOI[1]:
            return
        if marker in _ALONE:
            position = start + 2
            continue
        position = start + 2 + int.from_bytes(payload[start + 2 : start + 4], "big")
        if marker == _SOS:
            after = _AFTER_SCAN.search(payload, position)
            position = after.start() if after else len(payload)
        yield _Segment(marker, start, min(position, len(payload)))
