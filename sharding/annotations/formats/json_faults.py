"""Why a file is not JSON, in words that name the place and how to fix it."""

import re
from pathlib import Path

import msgspec

from semipose.configs.load import InputError

Content = bytes | memoryview
"""The bytes of a file; of a mapped one a view, so that no more is copied than what is looked at."""

_ARCHIVES = {
    b"PK\x03\x04": "zip archive",
    b"\x1f\x8b": "gzip file",
    b"BZh": "bzip2 file",
    b"\xfd7zXZ": "xz file",
    b"\x28\xb5\x2f\xfd": "zstd file",
    b"7z\xbc\xaf": "7z archive",
    b"Rar!": "rar archive",
}
_AGAIN = "copy or download it again"
_WORDS = {  # the word: what it is, how to fix it
    "nan": ("JSON has no NaN", "write null, or 0, 0, 0 for a keypoint that is not labelled"),
    "infinity": ("JSON has no Infinity", "write a number"),
    "inf": ("JSON has no Infinity", "write a number"),
    "none": ("None is Python's spelling", "write the file with Python's json.dump"),
    "true": ("True is Python's spelling", "write the file with Python's json.dump"),
    "false": ("False is Python's spelling", "write the file with Python's json.dump"),
    "undefined": ("JSON has no undefined", "write null"),
}
_SIGNS = {
    "'": (
        "texts have single quotation marks, as Python writes them",
        "write the file with Python's json.dump",
    ),
    "/": ("JSON has no comments", "remove it"),
    "#": ("JSON has no comments", "remove it"),
    ",": ("there is a comma too many", "remove it"),
}
_NO_KEY = ("object keys", "expected '\"'")
"""How the decoder's reasons begin if a key is missing."""
_CHUNK = 16 << 20
_LONGEST_SIGN = 4
"""The most bytes of a character in UTF-8."""
_LONGEST_ROW = 8192
"""Bytes before and after a place that are searched for the id of its row."""
_NEAR = 24
"""Bytes before and after a place that a message quotes."""


def json_error(path: Path, content: Content, error: Exception) -> InputError:
    """The sentence about a file that is not JSON: line, column, what is there, and what to do.

    error: msgspec's, of decoding `content`.
    """
    whole_file = _other_file(bytes(content[:512]))
    if whole_file is not None:
        return InputError(f"{path}: {whole_file}")
    if is_json_lines(content):
        return json_lines_error(path)
    if "truncated" in str(error):
        return InputError(f"{path}: this is no whole JSON file (it ends in the middle): {_AGAIN}")
    if isinstance(error, UnicodeDecodeError):
        return _not_utf_8(path, content)
    found = re.search(r"(?:JSON is malformed: )?(.*) \(byte (\d+)\)", str(error))
    if found is None:
        return InputError(f"{path}: this is no JSON file ({error}): {_AGAIN}")
    reason, place = found[1], int(found[2])
    place -= reason.startswith("trailing characters")  # of which it gives the end of the first
    if reason.startswith("trailing comma"):
        comma = bytes(content[max(0, place - 4096) : place]).rfind(b",")
        place = place if comma < 0 else max(0, place - 4096) + comma
        what, cure = f"there is a comma too many at the end of an {reason.rsplit(' ', 1)[-1]}", "remove it"
    else:
        place, what, cure = _at_place(content, place, reason)
    line, column = _line_and_column(content, place)
    near = bytes(content[max(0, place - _NEAR) : place + _NEAR]).decode(errors="replace")
    near = " ".join(near.split())
    return InputError(
        f"{path}: line {line}, column {column}{_row(content, place)}: {what} (near `{near}`): {cure}"
    )


def _not_utf_8(path: Path, content: Content) -> InputError:
    """The sentence about a file that is not UTF-8, decoded some bytes at a time to find the place."""
    place = 0
    while place < len(content):
        chunk = bytes(content[place : place + _CHUNK])
        try:
            chunk.decode()
        except UnicodeDecodeError as error:
            place += error.start
            if len(chunk) - error.start >= _LONGEST_SIGN or len(chunk) < _CHUNK:
                break  # not a sign that the end of the chunk divides
        else:
            place += len(chunk)
    line, column = _line_and_column(content, place)
    return InputError(
        f"{path}: line {line}, column {column}{_row(content, place)}: this is no UTF-8, which JSON is: save "
        "the file as UTF-8 (from Windows in Western Europe: iconv -f WINDOWS-1252 -t UTF-8 OLD.json > "
        "NEW.json)"
    )


def json_lines_error(path: Path) -> InputError:
    """The sentence about a file that holds one JSON value on each line."""
    return InputError(
        f"{path}: each line is a JSON value of its own (JSON Lines), where one value is wanted: "
        "write one file in COCO's form, or one list"
    )


def is_json_lines(content: Content) -> bool:
    """Whether the first line is a whole JSON object, and another one follows."""
    lines = bytes(content[: 1 << 20]).strip().split(b"\n", 2)
    if len(lines) < 2 or not lines[1].lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(msgspec.json.decode(lines[0]), dict)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def _other_file(head: bytes) -> str | None:
    """What kind of file the first bytes show, and what to do; None if they look like text."""
    for start, name in _ARCHIVES.items():
        if head.startswith(start):
            return f"this is a {name}: unpack it, and give the JSON file that is in it"
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) or (b"\0" in head[:4] and any(head[:4])):
        name = "UTF-32" if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")) else "UTF-16"
        return (
            f"the file is {name}, where JSON is UTF-8: save it as UTF-8 (iconv -f {name} -t UTF-8 OLD.json > "
            "NEW.json)"
        )
    if b"\0" in head[:4]:
        return f"the file begins with zero bytes, as one that was not copied to the end: {_AGAIN}"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "this is a web page: download the file itself, not the page that shows it"
    if text.startswith(b"<"):
        return "this is XML: export the annotations as COCO keypoints (JSON)"
    if text.startswith(b"version https://git-lfs"):
        return (
            "this is the pointer that stands for the file in git: fetch the file itself with `git lfs pull`"
        )
    if not text:
        return f"the file is empty: {_AGAIN}"
    return None


def _at_place(content: Content, place: int, reason: str) -> tuple[int, str, str]:
    """Where the word at a place begins, what is wrong with it, and how to fix it."""
    start = max(0, place - 16)
    before = re.search(rb"[\w+.-]*$", bytes(content[start:place]))
    assert before is not None
    first = start + before.start()
    word = re.match(rb"[\w+.-]*", bytes(content[first : first + 32]))
    assert word is not None
    text = word[0].decode(errors="replace")
    sign = bytes(content[place : place + _LONGEST_SIGN]).decode(errors="replace")[:1]
    by_sign = _unknown_sign(sign, reason)
    if by_sign is not None:
        return place, *by_sign
    known = _WORDS.get(text.lstrip("+-").lower())
    if known is not None and not reason.startswith("trailing"):
        return first, f"{known[0]}, and {text} stands here", known[1]
    if reason.startswith("invalid") and re.match(r"[+-]?\.?\d", text):
        return first, f"JSON does not write a number as {text}", "write 0.5, not .5, +0.5 or 00.5"
    if sign in _SIGNS:
        return place, *_SIGNS[sign]
    if not bytes(content[max(0, place - 64) : place]).strip():
        return place, "this is no JSON, which begins with a brace or a bracket", "give a JSON file"
    if reason.startswith("trailing characters"):
        return place, "the JSON ends before this place, and more follows", "remove what follows"
    if reason.startswith(_NO_KEY) and re.search(rb"\d,$", bytes(content[max(0, first - 2) : first])):
        return first, "a number is written with a comma", "write 0.5, not 0,5"
    if reason.startswith(_NO_KEY):
        return first, "a key has no quotation marks", "write it in double quotation marks"
    if reason.startswith("expected ','"):
        return place, "a comma or a bracket is missing", "add it"
    return first, reason, "correct it"


def _unknown_sign(sign: str, reason: str) -> tuple[str, str] | None:
    """What is wrong with a character that JSON does not allow there, and how to fix it; None otherwise."""
    if re.match("invalid (escaped? character|character in unicode escape)", reason):
        return "a text holds a backslash before a sign that JSON does not know", r"write / or \\ for each"
    if not reason.startswith(("invalid character", *_NO_KEY)):
        return None
    if sign and sign < " ":
        return "a text holds a line break, a tab or another control character", r"write it as \n or \t"
    if sign.isspace():
        return "JSON does not know this space (a no-break space or the like)", "write a plain one"
    return None


def _row(content: Content, place: int) -> str:
    """` (in the row of id 7)` if the object around a place has an id."""
    before = bytes(content[max(0, place - _LONGEST_ROW) : place])
    start, depth = len(before), 1
    while depth and start:
        start -= 1
        depth += (before[start] == ord("}")) - (before[start] == ord("{"))
    after = bytes(content[place : place + _LONGEST_ROW])
    row = before[start:] + after[: after.find(b"}")] if not depth else b""
    found = re.search(rb'"id"\s*:\s*"?([\w-]+)', row)
    return f" (in the row of id {found[1].decode(errors='replace')})" if found else ""


def _line_and_column(content: Content, place: int) -> tuple[int, int]:
    """Both from 1; the column counts characters."""
    line, start_of_line = 1, 0
    for start in range(0, place, _CHUNK):
        chunk = bytes(content[start : min(start + _CHUNK, place)])
        line += chunk.count(b"\n")
        last = chunk.rfind(b"\n")
        start_of_line = start + last + 1 if last >= 0 else start_of_line
    bytes_before = place - start_of_line
    if bytes_before < _CHUNK:
        bytes_before = len(bytes(content[start_of_line:place]).decode(errors="replace"))
    return line, bytes_before + 1
