"""Files that are no JSON, or JSON in another wrapping: what is read, and what the others are called."""

import gzip
import json
import re

import msgspec
import pytest

from semipose.configs.load import InputError
from semipose.sharding.annotations.findings import Findings
from semipose.sharding.annotations.formats import json_faults
from semipose.sharding.annotations.formats.rows import NUMBER_SPELLING, RowReader, read_json

TEXT = b'{"images": [\n  {"id": 7, "x": 1.5},\n  {"id": 8, "x": 2.5}\n]}'


class File(msgspec.Struct):
    images: list[msgspec.Raw]


class Row(msgspec.Struct):
    id: int
    x: float | None = None


@pytest.fixture
def read(tmp_path):
    def read(content: bytes) -> list[bytes]:
        path = tmp_path / "mine.json"
        path.write_bytes(content)
        return [bytes(raw) for raw in read_json(path, File, expected="a COCO keypoint file").images]

    return read


ROWS = [b'{"id": 7, "x": 1.5}', b'{"id": 8, "x": 2.5}']


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        b"\xef\xbb\xbf" + TEXT,
        gzip.compress(TEXT, mtime=0),
        gzip.compress(b"\xef\xbb\xbf" + TEXT, mtime=0),
        b" \n" + TEXT + b"\n\n",
    ],
    ids=["plain", "byte order mark", "gzip", "gzip of a byte order mark", "blanks around"],
)
def test_is_read_as_it_is(read, content):
    assert read(content) == ROWS


def spoilt(old: bytes, new: bytes) -> bytes:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            spoilt(b"2.5", b"NaN"),
            r"line 3, column 18 \(in the row of id 8\): JSON has no NaN, .*: write null",
        ),
        (
            spoilt(b"1.5", b"-Infinity"),
            r"line 2, column 18 \(in the row of id 7\): .*no Infinity.* -Infinity stands",
        ),
        (spoilt(b"1.5", b"nan"), r"line 2, column 18 .*JSON has no NaN"),
        (spoilt(b"1.5", b"None"), r"line 2, column 18 .*None is Python's spelling.*: .*json\.dump"),
        (spoilt(b"1.5", b"True"), r"line 2, column 18 .*True is Python's spelling"),
        (str({"images": []}).encode(), r"line 1, column 2: texts have single quotation marks.*json\.dump"),
        (
            spoilt(b"2.5}", b"2.5},"),
            r"line 3, column 22 .*a comma too many at the end of an array .*: remove it",
        ),
        (
            spoilt(b"2.5", b"2.5,"),
            r"line 3, column 21 .*a comma too many at the end of an object .*: remove it",
        ),
        (spoilt(b"1.5},", b"1.5},,"), r"line 2, column 23.*a comma too many"),
        (b"// mine\n" + TEXT, r"line 1, column 1: JSON has no comments .*: remove it"),
        (spoilt(b"  {", b"  # first\n  {"), r"line 2, column 3.*JSON has no comments"),
        (spoilt(b"},", b"}"), r"line 3, column 3.*a comma or a bracket is missing .*: add it"),
        (spoilt(b'"id"', b"id"), r"line 2, column 4: a key has no quotation marks"),
        (spoilt(b"1.5", b'"a\nb"'), r"line 2.*line break, a tab or another control character"),
        (spoilt(b"1.5", b'"00\n1"'), r"line 2.*line break, a tab or another control character"),
        (spoilt(b"1.5", b'"C:\\new\\0001.jpg"'), r"line 2.*a backslash before a sign .*: write / or"),
        (spoilt(b"1.5", b"1,5"), r"line 2.*a number is written with a comma"),
        (spoilt(b'"x"', '\u00a0"x"'.encode()), r"line 2, column 13.*does not know this space"),
        (spoilt(b"1.5", b"007"), r"line 2, column 18 .*does not write a number as 007"),
        (spoilt(b"1.5", b".5"), r"line 2, column 18 .*does not write a number as \.5 .*: write 0\.5, not"),
        (spoilt(b"1.5", b"[1 2]"), r"line 2, column 21 .*a comma or a bracket is missing"),
        (spoilt(b"1.5", b"+1"), r"line 2, column 18 .*does not write a number as \+1"),
        (spoilt(b"1.5", b"1."), r"line 2, column 18 .*does not write a number as 1\."),
        (spoilt(b"1.5", b"'a'"), r"line 2, column 18.*single quotation marks"),
        (b"var data = " + TEXT, "this is no JSON, which begins with a brace"),
        (TEXT + b"}", r"line 4, column 3: the JSON ends before this place"),
        (TEXT[:-9], "no whole JSON file .it ends in the middle.: copy or download it again"),
        (b'{"id": 1}\n{"id": 2}\n', "each line is a JSON value of its own"),
        (TEXT.replace(b"\n", b"") + b"\n" + TEXT.replace(b"\n", b""), "each line is a JSON value of its own"),
        (TEXT.decode().encode("utf-16"), "the file is UTF-16.*iconv"),
        (TEXT.decode().encode("utf-16-be"), "the file is UTF-16"),
        (TEXT.decode().encode("utf-32"), "the file is UTF-32.*iconv -f UTF-32"),
        (gzip.compress(TEXT, mtime=0)[:-9], "gzip file is damaged or not whole .*download it again"),
        (b"PK\x03\x04" + bytes(30), "this is a zip archive: unpack it"),
        (b"BZh91AY&SY", "this is a bzip2 file: unpack it"),
        (b"<!DOCTYPE html><html>", "this is a web page"),
        (b'<?xml version="1.0"?>', "this is XML: export"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (bytes(100), "begins with zero bytes"),
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"id,name\n1,a\n", r"line 1, column 1: this is no JSON, which begins with a brace or a bracket"),
        (b"[]", "this is not a COCO keypoint file"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_cure(read, content, words):
    with pytest.raises(InputError) as error:
        read(content)
    assert re.search(words, str(error.value)), str(error.value)
    assert "mine.json: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("chunk", [8, 9, 10, 1 << 20])
def test_the_first_byte_that_is_no_utf_8_is_named(tmp_path, monkeypatch, chunk):
    """Also where the end of a block divides a sign that is right."""
    monkeypatch.setattr(json_faults, "_CHUNK", chunk)
    path = tmp_path / "mine.json"
    path.write_bytes('{"a": "€€€",\n "id": 7, "name": "'.encode() + b'caf\xe9"}')
    with pytest.raises(InputError, match=r"line 2, column 23 \(.* id 7\): this is no UTF-8.*iconv"):
        read_json(path, dict[str, object], expected="anything")


def test_column_counts_characters(read):
    with pytest.raises(InputError, match="line 1, column 20: JSON has no NaN"):
        read('{"images": ["äöü", NaN]}'.encode())


def test_a_gzip_file_of_endless_length_is_refused(read, monkeypatch):
    monkeypatch.setattr("semipose.sharding.annotations.formats.rows.LARGEST_UNPACKED", 1 << 21)
    with pytest.raises(InputError, match="the gzip file holds more than"):
        read(gzip.compress(bytes(1 << 23)))


def test_a_full_disk_while_unpacking_is_one_sentence(read, monkeypatch):
    def full(*_args, **_keys):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(InputError, match=r"cannot be unpacked \(No space left on device\): make room in"):
        read(gzip.compress(TEXT))


class TestRowsInAnotherSpelling:
    def read(self, row):
        findings = Findings("mine.json")
        rows = [row for row, _ in RowReader(Row, findings, subject="image").read([msgspec.Raw(row)])]
        return rows, {finding.fault.what: finding for finding in findings}

    @pytest.mark.parametrize(
        "row", [{"id": 7.0, "x": 1}, {"id": "7", "x": 1}, {"id": 7, "x": "1.0"}, {"id": "007", "x": "1"}]
    )
    def test_numbers_are_numbers(self, row):
        rows, found = self.read(json.dumps(row).encode())
        assert rows == [Row(7, 1.0)]
        assert [(each.fault.effect, each.ids) for each in found.values()] == [("corrected", [7])]
        assert list(found) == [NUMBER_SPELLING]

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            ({"id": 7.5}, "id: expected `int`, got `float`"),
            ({"id": "seven"}, "id: expected `int`, got `str`"),
            ({"id": True}, "id: expected `int`, got `bool`"),
            ({"id": 7, "x": "nan"}, "x: expected `float | null`, got `str`"),
            ({"id": 7, "x": "wide"}, "x: expected `float | null`, got `str`"),
            ({"id": 7, "x": [1]}, "x: expected `float | null`, got `array`"),
        ],
    )
    def test_other_things_are_not(self, row, words):
        rows, found = self.read(json.dumps(row).encode())
        assert rows == []
        assert [(each.fault.what, each.fault.effect) for each in found.values()] == [(words, "stops")]

    def test_text_in_another_encoding_is_named(self):
        rows, found = self.read(b'{"id": 7, "name": "\xe9"}')
        assert (rows, list(found)) == ([], ["it holds text that is not UTF-8"]) or rows == [Row(7)]
