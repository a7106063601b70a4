import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from semipose.configs.load import InputError
from semipose.sharding.build import build
from semipose.sharding.check.report import beside
from semipose.sharding.check.verify import VerifySettings, verify
from semipose.sharding.samples.crop import WholePhoto
from semipose.sharding.store.files import file_sha256
from semipose.sharding.store.index import read_lines
from semipose.sharding.store.manifest import check_shards, read_manifest, write_manifest
from tests.tars import build_index

BUILD = Path(__file__).parents[3] / "sharding" / "build.py"
_BUILT: dict[str, dict[str, bytes]] = {}


@pytest.fixture
def make_shards(make_set, tmp_path, quiet):
    """A folder of three shards (8, 8 and 4 persons) or two (8 and 2 photos), written anew."""

    def make(kind="person"):
        output = tmp_path / "small"
        if kind not in _BUILT:
            crop = {"crop": WholePhoto()} if kind == "image" else {}
            build(make_set(photos=10).settings(output, kind=kind, samples_per_shard=8, **crop), console=quiet)
            _BUILT[kind] = {path.name: path.read_bytes() for path in output.iterdir()}
        output.mkdir(exist_ok=True)
        for name, content in _BUILT[kind].items():
            (output / name).write_bytes(content)
        return output

    return make


@pytest.fixture
def folder(make_shards):
    return make_shards()


def faults(folder, workers=1):
    """What verify finds: {(file, fault): ids}; the table names each file and fault."""
    console = Console(file=io.StringIO(), width=400)
    listed = beside(folder, "verify.json")
    listed.unlink(missing_ok=True)
    with suppress(InputError):
        verify(VerifySettings(verify=folder, workers=workers), console=console)
        return {}
    rows = json.loads(listed.read_text())["faults"]
    for row in rows:
        assert row["fault"] in console.file.getvalue()
        assert f"{row['file']} " in console.file.getvalue()
        assert str(row["ids"][0]) in console.file.getvalue()
    return {(Path(row["file"]).name, row["fault"]): row["ids"] for row in rows}


def members_of(tar):
    """[(name, payload)] in order."""
    with tarfile.open(tar) as file:
        return [(member.name, file.extractfile(member).read()) for member in file]


def tar_of(members, **keys):
    """A tar, as bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **{"format": tarfile.USTAR_FORMAT, **keys}) as tar:
        for name, payload in members:
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            tar.addfile(member, io.BytesIO(payload))
    return buffer.getvalue()


def agree(folder, *, index=True):
    """Make a manifest, and where it can be done the indices, of whatever lies in the folder."""
    manifest = read_manifest(folder)
    entries = []
    for shard in manifest.shards:
        tar, idx = folder / shard.file, folder / shard.idx_file
        if index and file_sha256(tar) != shard.sha256:
            with suppress(tarfile.TarError):
                build_index(tar)
        facts = {"bytes": tar.stat().st_size, "sha256": file_sha256(tar), "idx_sha256": file_sha256(idx)}
        entries.append(replace(shard, samples=len(read_lines(idx)), **facts))
    truth = file_sha256(folder / "ground_truth.json")
    write_manifest(folder, replace(manifest, shards=tuple(entries), ground_truth_sha256=truth))


def headers(tar):
    """Where each member's header begins, in order."""
    with tarfile.open(tar) as file:
        return [member.offset for member in file]


def cut_in_payload(tar):
    return tar.read_bytes()[: headers(tar)[12] + 512 + 100]


def cut_before_a_sample(tar):
    return tar.read_bytes()[: headers(tar)[12]]


def cut_between_members(tar):
    return tar.read_bytes()[: headers(tar)[13]]


def without_end(tar):
    return tar.read_bytes().rstrip(b"\0") + bytes(-len(tar.read_bytes().rstrip(b"\0")) % 512)


def without_a_member(tar):
    return tar_of([each for each in members_of(tar) if each[0] != "000000002.pose"])


def wrong_extension(tar):
    return tar_of([(name.replace("2.jpg", "2.jpeg"), payload) for name, payload in members_of(tar)])


def interleaved(tar):
    members = members_of(tar)
    return tar_of(sorted(members[:6], key=lambda each: each[0][-4:]) + members[6:])


def same_key_twice(tar):
    members = members_of(tar)
    return tar_of([*members[:3], *members[:3], *members[6:]])


def long_names(tar):
    members = [(f"{'x' * 120}{name}", payload) for name, payload in members_of(tar)]
    return tar_of(members, format=tarfile.PAX_FORMAT)


FAULTY_TARS = {
    "cut in a payload": (cut_in_payload, "the tar ends inside this member", "000000004.jpg"),
    "cut before a header": (cut_before_a_sample, "the tar ends without the zeros", "small-000000.tar"),
    "cut between members": (cut_between_members, "member missing", "000000004.pose"),
    "empty tar": (lambda tar: bytes(10240), "no sample in the tar", "small-000000.tar"),
    "0 bytes": (lambda tar: b"", "no sample in the tar", "small-000000.tar"),
    "no tar": (lambda tar: b"<html>" * 999, "no tar header where one should be", "small-000000.tar"),
    "gz": (lambda tar: gzip.compress(tar.read_bytes()), "no tar header where", "small-000000.tar"),
    "no EOF blocks": (without_end, "the tar ends without the zeros", "small-000000.tar"),
    "more after the end": (lambda tar: tar.read_bytes() + b"x", "the tar goes on after", "small-000000.tar"),
    "missing component": (without_a_member, "member missing", "000000002.pose"),
    "wrong extension": (wrong_extension, "member that a sample should not have", "000000002.jpeg"),
    "interleaved": (interleaved, "members of the sample are apart", "000000000, 000000001"),
    "same key twice": (same_key_twice, "sample twice", "000000000"),
    "PAX names": (long_names, "long name (PAX or GNU header)", "PaxHeader"),
}


@pytest.mark.parametrize("agreed", [False, True], ids=["manifest as built", "manifest agrees"])
@pytest.mark.parametrize("name", FAULTY_TARS)
def test_faulty_tar(folder, name, agreed):
    """Every row of what DALI lets pass, and those it refuses without saying which file it is."""
    make, fault, who = FAULTY_TARS[name]
    tar = folder / "small-000000.tar"
    tar.write_bytes(make(tar))
    if agreed:
        agree(folder)
    found = faults(folder)
    which = [ids for (file, what), ids in found.items() if file == tar.name and what.startswith(fault)]
    assert len(which) == 1
    assert who in ", ".join(which[0])
    has_hash = (tar.name, "SHA-256 other than in the manifest") in found
    assert has_hash != agreed
    # Where the manifest's own count is wrong, what follows has another place in the ground truth.
    elsewhere = {what for file, what in found if file not in (tar.name, folder.name)}
    assert elsewhere <= {"annotation that ground_truth.json does not have at this place"}
    assert not elsewhere or agreed


@pytest.mark.parametrize("agreed", [False, True])
def test_stale_index(folder, agreed):
    """The index of a tar whose members have moved since."""
    tar = folder / "small-000000.tar"
    members = members_of(tar)
    tar.write_bytes(tar_of([*members[3:6], *members[:3], *members[6:]]))
    if agreed:
        agree(folder, index=False)
    stale = (tar.name, "the index says otherwise than the tar")
    assert faults(folder)[stale] == ["000000001", "000000000"]


def test_index_of_more_samples(folder):
    tar = folder / "small-000000.tar"
    tar.write_bytes(tar_of(members_of(tar)[:18]))
    stale = (tar.name, "the index says otherwise than the tar")
    assert faults(folder)[stale] == ["000000006", "000000007"]


@pytest.mark.parametrize("kind", ["person", "image"])
def test_whole_shards(make_shards, kind):
    assert faults(make_shards(kind)) == {}


def change(folder, name, payload, *, shard="small-000000"):
    """Give one member another payload; tar, index and manifest agree with it."""
    tar = folder / f"{shard}.tar"
    members = dict(members_of(tar))
    members[name] = payload(members[name])
    tar.write_bytes(tar_of(members.items()))
    agree(folder)


def floats(place, value):
    """Put a value into a pose record."""

    def changed(payload):
        numbers = np.frombuffer(payload, "<f4").copy()
        numbers[place] = value
        return numbers.tobytes()

    return changed


def labelled(place, shift):
    """Move a labelled joint: the first whose v is above 0."""

    def changed(payload):
        numbers = np.frombuffer(payload, "<f4").copy()
        joints = numbers[4:].reshape(-1, 3)
        joints[np.flatnonzero(joints[:, 2] > 0)[0], place] += shift
        return numbers.tobytes()

    return changed


def card(**changes):
    """Change fields of a card; None removes one."""

    def changed(payload):
        fields = {**json.loads(payload), **changes}
        return json.dumps({key: value for key, value in fields.items() if value is not None}).encode()

    return changed


def rotated(payload):
    with Image.open(io.BytesIO(payload)) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


SINGULAR = [[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]]
SHIFTED = [[1.0, 0.0, 900.0], [0.0, 1.0, 0.0]]
OTHER = "joints, box, area or score other than in ground_truth.json"


@pytest.mark.parametrize(
    ("extension", "payload", "fault"),
    [
        ("jpg", lambda payload: payload[:-100], "picture damaged"),
        ("jpg", lambda payload: b"", "picture damaged"),
        ("jpg", rotated, "picture that readers decode differently (EXIF rotation)"),
        ("pose", lambda payload: payload[:-4], "pose record that is not of this skeleton"),
        ("pose", lambda payload: b"", "pose record that is not of this skeleton"),
        ("pose", floats(10, np.nan), "number that is not finite in the pose record"),
        ("pose", floats(0, np.inf), "number that is not finite in the pose record"),
        ("pose", floats(6, 3), "visibility other than 0, 1 or 2"),
        ("pose", floats(2, -1), "box without extent"),
        ("pose", labelled(0, 1e4), "labelled joint more than 2 photos' sizes outside its photo"),
        ("pose", labelled(1, -1e4), "labelled joint more than 2 photos' sizes outside its photo"),
        ("pose", labelled(0, 0.5), OTHER),
        ("pose", labelled(1, -0.5), OTHER),
        ("pose", labelled(2, -1), OTHER),
        ("pose", floats(3, 60), OTHER),
        ("json", lambda payload: payload[:-3], "json that cannot be read or lacks a field"),
        ("json", lambda payload: b"\xff{}", "json that cannot be read or lacks a field"),
        ("json", lambda payload: b"[" * 10000, "json that cannot be read or lacks a field"),
        ("json", card(area=None), "json that cannot be read or lacks a field"),
        ("json", card(id="ten"), "json that cannot be read or lacks a field"),
        ("json", card(area=7.5), OTHER),
        ("json", card(id=999), "annotation that ground_truth.json does not have at this place"),
        (
            "json",
            card(image_from_stored=SINGULAR),
            "image_from_stored that does not place the picture on its",
        ),
        ("json", card(image_from_stored=SHIFTED), "image_from_stored that does not place the picture on its"),
        (
            "json",
            card(source_size=[50, 50]),
            "image_from_stored that does not place the picture on its photo",
        ),
    ],
)
def test_faulty_member(folder, extension, payload, fault):
    name = f"000000003.{extension}"
    change(folder, name, payload)
    found = {what: ids for (file, what), ids in faults(folder).items() if file == "small-000000.tar"}
    which = [ids for what, ids in found.items() if what.startswith(fault)]
    assert len(which) == 1
    assert (
        name in which[0][0]
        or (fault.startswith("labelled") and "000000003.json" in which[0][0])
        or (fault == OTHER and "000000003.json" in which[0][0])
    )


@pytest.mark.parametrize(
    ("extension", "payload", "fault"),
    [
        ("pose", lambda payload: payload[:-4], "pose record that is not of this skeleton"),
        ("pose", floats(0, np.nan), "pose record that is not of this skeleton"),
        ("mask", lambda payload: payload[:-1], "mask that has not 2048 bytes"),
        ("pose", floats(1, 1e30), "pose record that is not of this skeleton"),
        ("pose", floats(8, np.nan), "number that is not finite in the pose record"),
        ("json", card(ids=[20]), "json and pose record disagree on the people"),
        ("json", card(ignored=[{}]), "json and pose record disagree on the people"),
        ("json", card(ids=[20, 999]), "annotation that ground_truth.json does not have at this place"),
        ("json", card(areas=[1.0, 2.0]), OTHER),
        ("json", card(ids=None), "json that cannot be read or lacks a field"),
    ],
)
def test_faulty_member_of_a_photo(make_shards, extension, payload, fault):
    folder = make_shards("image")
    change(folder, f"000000001.{extension}", payload)
    found = {what: ids for (file, what), ids in faults(folder).items() if file == "small-000000.tar"}
    assert "000000001" in found[fault][0]


class TestFolder:
    def test_all_faults_are_named(self, folder):
        """Of several files, and each member of one."""
        change(folder, "000000002.pose", floats(10, np.nan))
        change(folder, "000000005.pose", floats(10, np.nan))
        change(folder, "000000017.jpg", lambda payload: b"", shard="small-000002")
        (folder / "small-000001.idx").unlink()
        (folder / "notes.txt").write_text("x")
        found = faults(folder)
        nan = found[("small-000000.tar", "number that is not finite in the pose record")]
        assert nan == ["000000002.pose", "000000005.pose"]
        assert found[("small-000002.tar", "picture damaged")] == ["000000017.jpg"]
        assert found[("small-000001.tar", "file missing")] == ["small-000001.idx"]
        assert found[("small", "file that the manifest does not name")] == ["notes.txt"]
        assert len(found) == 4

    def test_missing_tar(self, folder):
        (folder / "small-000001.tar").unlink()
        found = faults(folder)
        assert found[("small-000001.tar", "file missing")] == ["small-000001.tar"]
        ids = found[("small", "annotation of the ground truth that no sample has")]
        assert ids == [50, 51, 60, 61, 70, 71, 80, 81]

    def test_altered_byte(self, folder):
        tar = folder / "small-000001.tar"
        content = bytearray(tar.read_bytes())
        content[100] ^= 1  # in the file mode: nothing else shows it
        tar.write_bytes(content)
        assert (tar.name, "SHA-256 other than in the manifest") in faults(folder)

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"images": [{}], "annotations": [{}]}'])
    def test_damaged_ground_truth(self, folder, content):
        (folder / "ground_truth.json").write_bytes(content)
        found = faults(folder)
        assert ("small", "SHA-256 other than in the manifest") in found
        assert ("small", "no ground truth in COCO form") in found
        (folder / "ground_truth.json").unlink()
        assert faults(folder) == {("small", "file missing"): ["ground_truth.json"]}

    def test_ground_truth_of_other_joints(self, folder):
        path = folder / "ground_truth.json"
        truth = json.loads(path.read_text())
        truth["annotations"][9]["keypoints"][:3] = [1, 2, 2]
        path.write_text(json.dumps(truth))
        agree(folder)
        assert list(faults(folder)) == [("small-000001.tar", OTHER)]

    def test_samples_in_another_order(self, folder):
        tar = folder / "small-000000.tar"
        members = members_of(tar)
        names = [name for name, _ in members]
        payloads = [payload for _, payload in [*members[3:6], *members[:3], *members[6:]]]
        tar.write_bytes(tar_of(zip(names, payloads, strict=True)))
        agree(folder)
        found = faults(folder)
        assert found == {
            ("small", "samples in another order than the ground truth"): [11],
        }

    def test_key_in_two_shards(self, folder):
        tar = folder / "small-000001.tar"
        members = [(name.replace("000000008", "000000000"), payload) for name, payload in members_of(tar)]
        tar.write_bytes(tar_of(members))
        agree(folder)
        assert faults(folder) == {
            ("small", "key of a sample in another shard too"): ["000000000"],
        }

    def test_unreadable_index(self, folder):
        (folder / "small-000000.idx").write_bytes(b"v1.1 8\n")
        assert ("small-000000.tar", "no index that can be read") in faults(folder)

    def test_no_manifest(self, folder, quiet):
        (folder / "dataset.json").unlink()
        with pytest.raises(InputError, match=r"holds no dataset\.json"):
            verify(VerifySettings(verify=folder), console=quiet)

    def test_nothing_is_changed(self, folder):
        change(folder, "000000002.pose", floats(10, np.nan))
        before = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}
        faults(folder)
        assert before == {path.name: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}

    def test_workers_find_the_same(self, folder):
        change(folder, "000000002.pose", floats(10, np.nan))
        assert faults(folder, workers=2) == faults(folder)


@pytest.mark.parametrize("name", FAULTY_TARS)
def test_what_verify_finds_in_a_tar_a_run_refuses_too(folder, name):
    make, _, _ = FAULTY_TARS[name]
    tar = folder / "small-000000.tar"
    tar.write_bytes(make(tar))
    agree(folder)
    assert faults(folder)
    with pytest.raises(InputError, match=tar.stem):
        check_shards(folder, read_manifest(folder))


def test_command(folder):
    def run(*words):
        return subprocess.run(
            [sys.executable, str(BUILD), *words], capture_output=True, text=True, check=False, cwd=folder
        )

    right = run("verify=.", "workers=1")
    assert (right.returncode, right.stderr) == (0, "")
    assert "20 samples in 3 shards, all as they were built" in right.stdout
    change(folder, "000000002.pose", floats(10, np.nan))
    wrong = run(f"verify={folder}", "workers=1")
    assert wrong.returncode == 2
    assert "000000002.pose" in wrong.stdout
    assert len(wrong.stderr.strip().splitlines()) == 1
    recipe = run(f"verify={folder}", "recipe.yaml")
    assert recipe.returncode == 2
    assert "recipe.yaml: verify=OUTPUT takes no recipe" in recipe.stderr
    helped = run("verify=.", "--help")
    assert helped.returncode == 0
    assert "each reads one shard at a time" in helped.stdout
