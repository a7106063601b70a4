"""Every file of a build altered in many ways, as a bad disk or a hand does it: refused in a sentence, or read
equal."""

import dataclasses
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import semipose.sharding.build
from semipose.configs.load import InputError
from semipose.sharding.build import build
from semipose.sharding.check.verify import VerifySettings, verify
from semipose.sharding.samples.crop import WholePhoto
from semipose.sharding.store.files import file_sha256
from semipose.sharding.store.ground_truth import read_truth
from semipose.sharding.store.index import read_lines
from semipose.sharding.store.journal import JOURNAL_NAME
from semipose.sharding.store.manifest import Manifest, check_shards, read_manifest, write_manifest
from semipose.sharding.store.progress_file import HashedLines

ODD_VALUES = (None, True, [], {}, "x", -1, 0, 0.5, 1e300, 10**30, [[]], [1], {"a": 1}, [None] * 4)


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


def other_values(content: bytes, *, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """JSON with one value at any depth replaced, removed or doubled, each with what was done to it."""
    rng = random.Random(seed)
    for _ in range(count):
        values = node = json.loads(content)
        path: list[Any] = []
        while isinstance(node, dict | list) and node and (not path or rng.random() < 0.8):
            parent, key = node, rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            path.append(key)
            node = node[key]
        what = rng.choice(["replaced", "removed", "doubled"])
        if what == "replaced":
            parent[key] = rng.choice(ODD_VALUES)
        elif what == "removed":
            del parent[key]
        elif isinstance(parent, list):
            parent.append(node)
        yield f"{path} {what}", json.dumps(values).encode()


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Hundreds of small files: nothing here is about a power loss."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_journal_altered_in_any_way_gives_the_same_bytes(make_set, tmp_path, quiet, monkeypatch):
    """The build goes on from what is sound of it."""
    small, output = make_set(4), tmp_path / "small"
    building = tmp_path / ".small.building"
    with monkeypatch.context() as patch:
        patch.setattr(semipose.sharding.build, "write_manifest", lambda *_: 1 / 0)
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
        "other next": journal.replace(b'"next": [1', b'"next": [2'),
    }
    assert journal not in unsealed.values()
    for what, altered in (*alterations(journal, seed=0, count=10), *unsealed.items()):
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
    for what, altered in alterations(lines.path.read_bytes(), seed=1, count=50):
        lines.path.write_bytes(altered)
        found = lines.read()
        assert found == texts[: len(found)], what
        lines.rewrite(found)
        lines.append("more")
        assert lines.read() == [*found, "more"], what


@pytest.fixture(params=["person", "image"])
def shards(request, make_set, tmp_path, quiet) -> Path:
    """A folder of two shards of two persons, or of two photos."""
    kind = request.param
    changes = {"crop": WholePhoto()} if kind == "image" else {}
    small = make_set(4 if kind == "image" else 2)
    build(small.settings(tmp_path / "small", kind=kind, samples_per_shard=2, **changes), console=quiet)
    return tmp_path / "small"


def refusal(look: Callable[[], object]) -> str:
    """The sentence in which a look at shards refuses them; empty where it does not."""
    sentence = ""
    try:
        look()
    except InputError as error:
        sentence = str(error)
    assert "\n" not in sentence
    return sentence


def verified(folder: Path) -> str:
    settings = VerifySettings(verify=folder, workers=1)
    return refusal(lambda: verify(settings, console=Console(quiet=True)))


def opened(folder: Path) -> str:
    return refusal(lambda: check_shards(folder, read_manifest(folder)))


def agree(folder: Path, manifest: Manifest) -> None:
    """Let the manifest say of indices and ground truth what lies in the folder."""
    entries = []
    for shard in manifest.shards:
        samples = shard.samples
        with suppress(InputError):
            samples = len(read_lines(folder / shard.idx_file))
        sha256 = file_sha256(folder / shard.idx_file)
        entries.append(dataclasses.replace(shard, samples=samples, idx_sha256=sha256))
    truth = file_sha256(folder / "ground_truth.json")
    write_manifest(folder, dataclasses.replace(manifest, shards=tuple(entries), ground_truth_sha256=truth))


@pytest.mark.parametrize("shards", ["person"], indirect=True)
@pytest.mark.parametrize("is_old", [False, True], ids=["", "of a build that wrote no hash"])
def test_an_altered_manifest_is_refused_or_reads_equal(shards, is_old):
    path = shards / "dataset.json"
    values = json.loads(path.read_text())
    if is_old:  # then the ground truth tells of keypoints, pairs and sigmas, and hashes of shards
        del values["sha256"]
        path.write_text(json.dumps(values, indent=1))
    content, manifest = path.read_bytes(), read_manifest(shards)
    assert (opened(shards), verified(shards)) == ("", "")
    others = [*alterations(content, seed=2, count=30), *other_values(content, seed=3, count=80)]
    for key in ("names", "sigmas", "flip_pairs", "bones"):
        altered = json.loads(content)
        altered["skeleton"][key] = altered["skeleton"][key][::-1]
        others.append((f"{key} turned round", json.dumps(altered).encode()))
    for what, altered in others:
        path.write_bytes(altered)
        told = opened(shards)
        with suppress(InputError):
            read = read_manifest(shards)
            is_equal = read == manifest or (is_old and read.skeleton == manifest.skeleton)
            assert told or is_equal or "removed" in what, what  # without its hash it is one of an old build
        if told and len(altered) < len(content):  # verify reads all tars: a part of them will do
            assert verified(shards), what


@pytest.mark.parametrize("name", ["small-000001.idx", "ground_truth.json"])
def test_altered_indices_and_ground_truths_are_refused_though_the_manifest_agrees(shards, name):
    path, manifest = shards / name, read_manifest(shards)
    content = path.read_bytes()
    others = list(alterations(content, seed=4, count=8))
    if name == "ground_truth.json":
        others += other_values(content, seed=5, count=40)
    else:  # the last sample is missing from index and manifest, not from the tar
        _, *lines = content.decode().splitlines()
        others.append(("last missing", "\n".join([f"v1.2 {len(lines) - 1}", *lines[:-1]]).encode() + b"\n"))
    for what, altered in others:
        path.write_bytes(altered)
        agree(shards, manifest)
        told = verified(shards), opened(shards)
        if name.endswith(".idx"):
            assert altered == content or all(told), what
        elif not told[0]:  # what verify passes, scorers read
            read_truth(path, num_keypoints=17)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda truth: truth["images"][1].pop("width"), "missing required field `width`"),
        (lambda truth: truth["annotations"][2].pop("area"), "missing required field `area`"),
        (
            lambda truth: truth["annotations"][2].update(bbox=[1, 2, 3]),
            "bbox: expected `array` of length >= 4",
        ),
        (lambda truth: truth["annotations"][2]["keypoints"].pop(), r"keypoint values \(50 for 17 keypoints"),
        (lambda truth: truth["annotations"][2].update(image_id=99), r"`images` does not list \(image 99"),
        (lambda truth: truth["annotations"].append(truth["annotations"][2]), "two rows have this id"),
        (
            lambda truth: truth["categories"][0]["sigmas"].reverse(),
            "its sigmas are not those of dataset.json",
        ),
    ],
)
def test_what_is_wrong_with_a_ground_truth_is_named(shards, change, words):
    path, manifest = shards / "ground_truth.json", read_manifest(shards)
    truth = json.loads(path.read_text())
    change(truth)
    path.write_text(json.dumps(truth))
    agree(shards, manifest)
    assert verified(shards)
    told = opened(shards) or refusal(lambda: read_truth(path, num_keypoints=17))
    assert re.search(words, told)
    assert told.startswith(str(path))


def test_a_row_that_is_not_utf8_is_named(make_set, tmp_path, quiet):
    small = make_set(2)
    text = small.annotations.read_bytes()
    small.annotations.write_bytes(text.replace(b'"000000000002.jpg"', b'"000000000\xe4.jpg"'))
    with pytest.raises(
        InputError, match=r"image .*2: it holds text that is not UTF-8: save the file as UTF-8"
    ):
        build(small.settings(tmp_path / "small"), console=quiet)
