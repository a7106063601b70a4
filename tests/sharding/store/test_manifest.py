import json
import shutil
from pathlib import Path

import pytest

from semipose.configs.load import InputError
from semipose.sharding.build import build
from semipose.sharding.store.manifest import MANIFEST_NAME, check_shards, read_manifest, write_manifest


@pytest.fixture
def shards(make_set, tmp_path, quiet):
    folder = tmp_path / "small"
    build(make_set().settings(folder), console=quiet)
    return folder


def test_round_trip(shards, tmp_path):
    manifest = read_manifest(shards)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.num_samples == 10
    assert manifest.num_bytes == sum(path.stat().st_size for path in shards.glob("*.tar"))


def test_whole_folder_passes(shards):
    check_shards(shards, read_manifest(shards))


def cut_tar(folder):
    path = folder / "small-000001.tar"
    path.write_bytes(path.read_bytes()[:-512])


def grown_tar(folder):
    with (folder / "small-000001.tar").open("ab") as file:
        file.write(bytes(512))


def altered_tar(folder):
    path = folder / "small-000001.tar"
    content = bytearray(path.read_bytes())
    content[2000] ^= 255
    path.write_bytes(bytes(content))


def altered_truth(folder):
    path = folder / "ground_truth.json"
    path.write_text(path.read_text().replace("1500.5", "1500.6"))


def foreign_idx(folder):
    """Of a shard with as many samples, so that only its content tells."""
    shutil.copy(folder / "small-000000.idx", folder / "small-000001.idx")


def stale_idx(folder):
    path = folder / "small-000001.idx"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head.replace("4", "3"), *lines[:3]]) + "\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_tar, r"small-000001\.tar: the shard was cut short: \d+ bytes instead of \d+ as in the manifest"),
        (grown_tar, r"small-000001\.tar: the shard was altered: \d+ bytes instead"),
        (altered_tar, r"small-000001\.tar: the shard was altered: its SHA-256"),
        (altered_truth, r"ground_truth\.json: the file is missing or was altered"),
        (foreign_idx, r"small-000001\.idx: the index does not belong to small-000001\.tar: copy both"),
        (stale_idx, r"small-000001\.idx: the index does not belong to"),
        (lambda f: (f / "small-000002.tar").unlink(), r"small-000002\.tar: the shard is missing"),
        (lambda f: (f / "small-000002.idx").unlink(), r"small-000002\.idx: the index is missing"),
        (lambda f: (f / "ground_truth.json").unlink(), r"ground_truth\.json: the file is missing"),
    ],
)
def test_damage_is_one_sentence_with_file_and_cure(shards, damage, words):
    manifest = read_manifest(shards)
    damage(shards)
    with pytest.raises(InputError, match=words) as error:
        check_shards(shards, manifest)
    assert "again" in str(error.value)
    assert "\n" not in str(error.value)


def test_mistyped_folder(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder; make the shards with"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"`semipose shards RECIPE 'output=my set'`"):
        read_manifest(Path("my set"))


def test_folder_without_manifest(tmp_path):
    with pytest.raises(InputError, match=r"the folder holds no dataset\.json; make the shards with"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:-40], "this is no manifest"),
        (lambda _: "[]", "this is no manifest"),
        (
            lambda text: text.replace('"format_version": 1', '"format_version": 2'),
            "format version 2, but this version reads 1",
        ),
        (lambda text: text.replace('"samples": 2', '"samples": "two"'), r"shards\.2\.samples: "),
        (lambda text: text.replace('"order": "file"', '"order": "random"'), "order: "),
        (lambda text: text.replace('"left_eye"', '"right_eye"'), "skeleton: .*distinct"),
        (lambda text: text.replace('"kind"', '"sort"'), "(kind|sort): "),
    ],
)
def test_wrong_manifest(shards, change, words):
    path = shards / MANIFEST_NAME
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(InputError, match=words) as error:
        read_manifest(shards)
    assert str(error.value).startswith(str(path))


def test_manifest_is_plain_json(shards):
    values = json.loads((shards / MANIFEST_NAME).read_text())
    assert values["crop"]["name"] == "person"
    assert len(values["skeleton"]["names"]) == 17
    assert values["order"] == "file"
