"""Input made to do harm, through the whole command: one sentence, exit code 2, bounded memory, no output."""

import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_MIB = 400
"""The libraries alone take about 100; none of these files may add its own claims."""

MEASURE = """
import resource, subprocess, sys

code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""A small process between: the peak of a child begins with that of the process that starts it."""


def run_build(small, tmp_path, **changes):
    """Exit code, stderr and peak memory in MiB of a build by command."""
    recipe = tmp_path / "recipe.yaml"
    values = {"annotations": small.annotations, "images": small.images, **changes}
    recipe.write_text(
        "source:\n  name: coco\n"
        + "".join(f"  {key}: {value}\n" for key, value in values.items())
        + f"output: {tmp_path / 'shards' / 'x'}\nworkers: 1\n"
    )
    command = [sys.executable, str(ROOT / "sharding" / "build.py"), str(recipe)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr, int(done.stdout.splitlines()[-1]) / 1024


def refused(small, tmp_path, words, **changes):
    code, stderr, peak_mib = run_build(small, tmp_path, **changes)
    assert code == 2, stderr
    assert len(stderr.splitlines()) == 1, stderr
    assert words in stderr
    assert peak_mib < MOST_MIB
    assert not (tmp_path / "shards" / "x").exists()


def test_json_nested_deeply(make_set, tmp_path):
    small = make_set(1)
    text = json.dumps(small.content)
    small.annotations.write_text(text[:-1] + ', "info": ' + "[" * 10_000 + "]" * 10_000 + "}")
    refused(small, tmp_path, "annotations.json: the JSON is nested too deeply")


def test_row_nested_deeply(make_set, tmp_path):
    small = make_set(1)
    text = json.dumps(small.content).replace(
        '"iscrowd": 0', '"segmentation": ' + "[" * 10_000 + "]" * 10_000, 1
    )
    small.annotations.write_text(text)
    refused(small, tmp_path, "annotations.json: the JSON is nested too deeply")


@pytest.mark.parametrize("key", ["file_name", "info"])
def test_text_of_two_gigabytes(make_set, tmp_path, key):
    """The file is sparse, so it takes no room on the disk."""
    small = make_set(1)
    head = '{"info": "' if key == "info" else '{"images": [{"id": 1, "file_name": "'
    with small.annotations.open("wb") as file:
        file.write(head.encode())
        file.seek(2 << 30, os.SEEK_CUR)
        file.write(b'"}')
    refused(small, tmp_path, "has more than 16 MiB: this is no annotation file")


def test_long_list_of_numbers(make_set, tmp_path):
    small = make_set(1)
    small.content["annotations"][0]["keypoints"] = "HERE"
    small.save()
    text = small.annotations.read_text().replace('"HERE"', "[" + "1," * 20_000_000 + "1]")
    small.annotations.write_text(text)
    refused(small, tmp_path, "has more than 16 MiB")


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, payload: bytes) -> bytes:
        return (
            struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def jpeg_that_claims(width: int, height: int, photo: bytes) -> bytes:
    start = photo.index(b"\xff\xc0")  # the frame header: length, precision, height, width
    return photo[: start + 5] + struct.pack(">HH", height, width) + photo[start + 9 :]


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_photo_that_claims_60000_pixels_each_way(make_set, tmp_path, kind):
    small = make_set(1)
    path = small.images / "000000000001.jpg"
    huge = (
        png_that_claims(60_000, 60_000)
        if kind == "png"
        else jpeg_that_claims(60_000, 60_000, path.read_bytes())
    )
    path.write_bytes(huge)
    refused(small, tmp_path, "000000000001.jpg (annotation 10): the image is too large")


def test_link_out_of_the_folder(make_set, tmp_path):
    small = make_set(1)
    path = small.images / "000000000001.jpg"
    secret = tmp_path / "secret.jpg"
    path.rename(secret)
    path.symlink_to(secret)
    refused(small, tmp_path, "'000000000001.jpg' is a link to a file outside this folder")


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname", "a/../../secret.jpg"])
def test_name_out_of_the_folder(make_set, tmp_path, name):
    small = make_set(1)
    (small.images / "000000000001.jpg").rename(small.folder / "secret.jpg")
    small.content["images"][0]["file_name"] = name
    small.save()
    refused(small, tmp_path, f"the photo name {name!r} leads out of this location")


def test_zip_member_out_of_the_archive(make_set, tmp_path):
    small = make_set(1)
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(small.images / "000000000001.jpg", "000000000001.jpg")
        file.writestr("../evil.jpg", b"evil")
    refused(small, tmp_path, "'../evil.jpg' leads out", images=archive)


def test_zip_member_that_unpacks_without_end(make_set, tmp_path):
    small = make_set(1)
    archive = tmp_path / "photos.zip"
    with (
        zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("000000000001.jpg", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))
    refused(small, tmp_path, "the photo is larger than 256 MB", images=archive)
