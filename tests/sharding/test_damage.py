"""Every file of a build altered in many ways, as a bad disk or a hand does it: refused in a sentence, or read
equal."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import sharding.build
from sharding.build import build
from sharding.journal import JOURNAL_NAME
from sharding.lines import HashedLines


def alterations(content: bytes, *, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Other contents of a file, each with what was done to it."""
    rng = random.Random(seed)
    for _ in range(count):
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        flipped = bytes([content[place] ^ 1 << bit])
        yield f"bit {bit} of byte {place}", content[:place] + flipped + content[place + 1 :]
        yield f"cut at byte {place}", content[:place]
        yield f"zeros from byte {place}", content[:place] + bytes(len(content) - place)
    yield from (("empty", b""), ("null", b"null"), ("list", b"[]"), ("object", b"{}"))
    yield "not UTF-8", b"\xff\xfe" + content
    yield "nested", b"[" * 100_000
    yield "twice", content + content
    lines = content.splitlines(keepends=True)
    for place in range(min(len(lines), count)):
        yield f"line {place} twice", b"".join([*lines[: place + 1], *lines[place:]])
        yield f"line {place} missing", b"".join([*lines[:place], *lines[place + 1 :]])
        yield f"line {place} last", b"".join([*lines[:place], *lines[place + 1 :], lines[place]])


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_journal_altered_in_any_way_gives_the_same_bytes(make_set, tmp_path, quiet, monkeypatch):
    """The build goes on from what is sound of it."""
    small, output = make_set(8), tmp_path / "small"
    building = tmp_path / ".small.building"
    with monkeypatch.context() as patch:
        patch.setattr(sharding.build, "write_manifest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(small.settings(output, samples_per_shard=2), console=quiet)
    stopped = tmp_path / "stopped"
    shutil.copytree(building, stopped)
    journal = (building / JOURNAL_NAME).read_bytes()
    build(small.settings(output, samples_per_shard=2), console=quiet)
    expected = files_of(output)
    texts = [line.partition(b" ")[2] for line in journal.splitlines()]
    unsealed = {
        "lines without their hashes": b"\n".join(texts),
        "other samples": journal.replace(b'"samples": 2', b'"samples": 1'),
        "no next": journal.replace(b'"next"', b'"text"'),
        "other next": journal.replace(b'"next": [3', b'"next": [2'),
    }
    assert journal not in unsealed.values()
    for what, altered in (*alterations(journal, seed=0, count=12), *unsealed.items()):
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(stopped, building)
        (building / JOURNAL_NAME).write_bytes(altered)
        build(small.settings(output, samples_per_shard=2), console=quiet)
        assert files_of(output) == expected, what
        assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "small", "stopped"], what


def test_altered_lines_are_read_up_to_the_first_that_is_not_as_it_was_written(tmp_path):
    """Here those of any work that goes on where it was stopped: builds, and detectors."""
    lines = HashedLines(tmp_path / "part", head="of these photos")
    lines.rewrite([])
    texts = [f'{{"next": {number}}}' for number in range(9)]
    for text in texts:
        lines.append(text)
    assert lines.read() == texts
    assert HashedLines(lines.path, head="of other photos").read() == []
    for what, altered in alterations(lines.path.read_bytes(), seed=1, count=100):
        lines.path.write_bytes(altered)
        found = lines.read()
        assert found == texts[: len(found)], what
        lines.rewrite(found)
        lines.append("more")
        assert lines.read() == [*found, "more"], what
