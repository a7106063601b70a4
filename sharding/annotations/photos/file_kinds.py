"""What a file is that no photo can be read from, by its first bytes."""

_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"heim": "HEIC",
    b"heis": "HEIC",
    b"hevc": "HEIC",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
    b"crx ": "a raw photo (CR3)",
    b"qt  ": "a film (MOV)",
}
"""What the brand of an ISO file (`ftyp`) stands for; all other brands are videos."""
_STARTS = (
    (b"version https://git-lfs", "a pointer of Git LFS"),
    (b"/annex/objects/", "a pointer of git-annex"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"PK\x03\x04", "a zip"),
    (b"\x1f\x8b", "gzip"),
    (b"Rar!", "RAR"),
    (b"7z\xbc\xaf", "7z"),
    (b"\x1a\x45\xdf\xa3", "a film (Matroska)"),
    (b"FUJIFILMCCD-RAW", "a raw photo (RAF)"),
    (b"\0\0\1\0", "an icon (ICO)"),
)

_LONGEST_LINK = 1024
_LINK_ENDS = (b".jpg", b".jpeg", b".png", b".webp", b".bmp", b".tif", b".tiff")
"""The end of the text that git writes in place of a link, if links are switched off."""


def name_kind(payload: bytes) -> str | None:
    """Name the kind of bytes that no photo could be read from; None if their start does not show it."""
    for start, kind in _STARTS:
        if payload.startswith(start):
            return kind
    if payload[4:8] == b"ftyp":
        return _BRANDS.get(payload[8:12], "a film (MP4)")
    link = payload[:_LONGEST_LINK].strip()
    if len(payload) < _LONGEST_LINK and b"\n" not in link and link.lower().endswith(_LINK_ENDS):
        return f"the text of a link to {link.decode(errors='replace')!r}"
    text = payload[:1000].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if b"<svg" in text:
        return "SVG"
    if text.startswith(b"<?xml"):
        return "XML"
    return "text" if text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text) else None


def say_why(payload: bytes) -> str:
    """Say in a few words why no photo could be read from these bytes."""
    if not payload.strip(b"\0"):
        return "the file is all zeros" if payload else "the file is empty"
    kind = name_kind(payload)
    return f"it is {kind}, which is not read here" if kind else "no image format that can be read"
