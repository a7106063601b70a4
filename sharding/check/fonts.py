"""Fonts for texts in any script, and a replacement if no font of this machine has the letters."""

import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_BY_SOUND = ("HANGUL SYLLABLE ", "HIRAGANA LETTER ", "KATAKANA LETTER ")


def legible(text: str, size_px: int) -> tuple[str, Font]:
    """The text and a font with all its letters; if there is none, the text in ASCII, see `in_ascii`."""
    text = unicodedata.normalize("NFC", text)
    path = None if text.isascii() else _font_with(frozenset(text))
    if path is not None:
        return text, ImageFont.truetype(path, size_px)
    return in_ascii(text), _plain_font(size_px)


@lru_cache(maxsize=16)
def _plain_font(size_px: int) -> Font:
    """The font of Pillow, which has only ASCII. Pillow itself would open it anew for every text."""
    return ImageFont.load_default(size_px)


def in_ascii(text: str) -> str:
    """Korean and Japanese syllables by sound, Latin letters without accents, all others as `\\u5de6`."""
    return "".join(map(_letter_in_ascii, unicodedata.normalize("NFC", text)))


def _letter_in_ascii(letter: str) -> str:
    name = unicodedata.name(letter, "")
    if name.startswith(_BY_SOUND):
        return name.rpartition(" ")[2].lower()
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return plain or letter.encode("ascii", "backslashreplace").decode()


@lru_cache(maxsize=256)
def _font_with(letters: frozenset[str]) -> str | None:
    """The first font of matplotlib or of the machine with all of these letters."""
    needed = {ord(letter) for letter in letters if not letter.isspace()}
    return next((path for path in _fonts() if needed <= _letters_of(path)), None)


@lru_cache(maxsize=1)
def _fonts() -> tuple[str, ...]:
    import matplotlib  # takes most of a second, which only texts beyond ASCII are worth
    from matplotlib.font_manager import findSystemFonts

    own = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return (str(own), *sorted(findSystemFonts()))


@lru_cache(maxsize=512)
def _letters_of(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # a damaged font, or one of another kind
        return frozenset()
