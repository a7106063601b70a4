"""Photos of folders, zips, addresses: a name finds the same bytes everywhere, a hostile one finds none.

More about addresses in test_photos_url.py.
"""

import multiprocessing
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import fsspec
import pytest

from semipose.configs.load import InputError
from semipose.sharding.annotations.photos import FolderPhotos, Photos, UrlPhotos, ZipPhotos, open_photos

CONTENT = {
    "a.jpg": b"first",
    "b 2.JPG": b"a space and capitals",
    "ü/日本 1.png": b"unicode",
    "val2017/000000000139.jpg": b"in a folder",
    "val2017/deep/100%#1.webp": b"signs of addresses",
}
OTHERS = {
    ".hidden.jpg": b"",
    ".cache/a.jpg": b"",
    "__MACOSX/val2017/._a.jpg": b"",
    "readme.txt": b"",
    "jpg": b"",
}
KINDS = ["folder", "zip", "zip with a top folder", "memory", "zip in memory"]


def write_folder(folder: Path, content: dict[str, bytes]) -> Path:
    for name, payload in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(payload)
    return folder


def write_zip(path: Path, content: dict[str, bytes], prefix: str = "", **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, payload in content.items():
            archive.writestr(prefix + name, payload)
    return path


def location_of(kind: str, folder: Path, content: dict[str, bytes]) -> str:
    if kind == "folder":
        return str(write_folder(folder / "photos", content))
    if kind == "memory":
        address = f"memory://{folder.name}/photos"
        fsspec.filesystem("memory").pipe({f"{address}/{name}": payload for name, payload in content.items()})
        return address
    prefix = "train2017/" if kind == "zip with a top folder" else ""
    path = write_zip(folder / "train2017.zip", content, prefix)
    if kind == "zip in memory":
        fsspec.filesystem("memory").pipe(f"{folder.name}.zip", path.read_bytes())
        return f"zip://::memory://{folder.name}.zip"
    return str(path)


@pytest.fixture(params=KINDS)
def photos(request: pytest.FixtureRequest, tmp_path: Path) -> Photos:
    return open_photos(location_of(request.param, tmp_path, CONTENT | OTHERS))


class TestEverySource:
    def test_names_are_those_of_the_photos(self, photos):
        assert photos.names() == sorted(CONTENT)

    def test_reads_by_name(self, photos):
        assert {name: photos.read(name) for name in photos.names()} == CONTENT

    @pytest.mark.parametrize(
        "name", ["./a.jpg", "val2017\\000000000139.jpg", ".\\val2017//./000000000139.jpg"]
    )
    def test_careless_names_are_put_right(self, photos, name):
        assert photos.read(name) in CONTENT.values()
        assert photos.absent([name]) == set()

    def test_absent(self, photos):
        wrong = {
            "none.jpg",
            "val2017",
            "A.JPG",
            "val2017/none.jpg",
            "nowhere/a.jpg",
            "a.jpg/b.jpg",
            "b%202.JPG",
        }
        assert photos.absent([*CONTENT, *wrong]) == wrong

    @pytest.mark.parametrize("name", ["none.jpg", "nowhere/a.jpg", "val2017/none.jpg"])
    def test_reading_an_absent_photo(self, photos, name):
        with pytest.raises(InputError, match=f"{name}: the photo is absent"):
            photos.read(name)

    @pytest.mark.parametrize(
        "name",
        ["../a.jpg", "val2017/../../a.jpg", "/etc/passwd", "C:\\a.jpg", "..\\a.jpg", "", ".", "a\0.jpg"],
    )
    def test_names_that_lead_out(self, photos, name):
        sentence = "the photo name .* leads out of this location"
        with pytest.raises(InputError, match=sentence) as caught:
            photos.read(name)
        assert str(caught.value).startswith(photos.location)
        with pytest.raises(InputError, match=sentence):
            photos.absent(["a.jpg", name])

    def test_too_large(self, photos, monkeypatch):
        for module in ("base", "folder", "zipped", "url"):
            monkeypatch.setattr(
                sys.modules[f"semipose.sharding.annotations.photos.{module}"],
                "MOST_BYTES",
                len(b"in a folder"),
            )
        assert photos.read("val2017/000000000139.jpg") == b"in a folder"
        with pytest.raises(InputError, match=r"b 2\.JPG: the photo is larger than"):
            photos.read("b 2.JPG")

    def test_survives_pickling(self, photos):
        assert pickle.loads(pickle.dumps(photos)) == photos
        assert len(pickle.dumps(photos)) < 500

    def test_where(self, photos):
        assert photos.where("b/a.jpg") == f"{photos.location}/b/a.jpg"


def test_two_other_processes(tmp_path):
    (tmp_path / "zipped").mkdir()
    zipped = location_of("zip with a top folder", tmp_path / "zipped", CONTENT)
    places = [location_of("folder", tmp_path, CONTENT), zipped, f"zip://train2017::file://{zipped}"]
    photos = [open_photos(place) for place in places]
    assert [type(each) for each in photos] == [FolderPhotos, ZipPhotos, UrlPhotos]
    assert photos[1].read("a.jpg") == b"first"  # open here, which is not handed on
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [(name, pool.submit(each.read, name)) for each in photos for name in CONTENT]
        assert all(future.result() == CONTENT[name] for name, future in futures)


class TestFolder:
    def test_absent_location(self, tmp_path):
        with pytest.raises(InputError, match=r"photos: no such folder of photos: correct the path \(source"):
            open_photos(tmp_path / "photos")

    def test_location_that_went_away(self, tmp_path):
        photos = open_photos(write_folder(tmp_path / "photos", CONTENT))
        (tmp_path / "photos").rename(tmp_path / "elsewhere")
        for action in (lambda: photos.absent(CONTENT), photos.names):
            with pytest.raises(InputError, match=r"photos: (no such folder|this folder cannot be listed)"):
                action()

    def test_address_of_a_folder(self, tmp_path):
        write_folder(tmp_path, CONTENT)
        assert open_photos(f"file://{tmp_path}").read("a.jpg") == b"first"

    def test_links(self, tmp_path):
        """Links of the location itself and within it are followed; those that lead out of it are refused."""
        outside = write_folder(tmp_path / "outside", {"secret.jpg": b"secret", "sub/a.jpg": b"secret"})
        folder = write_folder(tmp_path / "photos2", CONTENT)
        (tmp_path / "photos").symlink_to(folder)
        (folder / "inside.jpg").symlink_to(folder / "a.jpg")
        photos = open_photos(tmp_path / "photos")
        assert photos.read("inside.jpg") == b"first"
        assert photos.absent(["inside.jpg"]) == set()
        assert photos.names() == sorted([*CONTENT, "inside.jpg"])
        (folder / "out.jpg").symlink_to(outside / "secret.jpg")
        (folder / "out").symlink_to(outside / "sub")
        for name in ("out.jpg", "out/a.jpg"):
            with pytest.raises(
                InputError, match=rf"photos: '{name}' is a link to a file outside this folder"
            ):
                photos.read(name)
        with pytest.raises(InputError, match="'out' is a link to a file outside"):
            photos.absent(["out/a.jpg"])

    @pytest.mark.parametrize("name", ["out", "out.jpg"])
    def test_listing_meets_a_link_that_leads_out(self, tmp_path, name):
        folder = write_folder(tmp_path / "photos", CONTENT)
        (folder / name).symlink_to(tmp_path)
        with pytest.raises(InputError, match=f"'{name}' is a link to a file outside"):
            open_photos(folder).names()

    def test_neighbour_of_the_same_beginning_is_outside(self, tmp_path):
        write_folder(tmp_path / "photos", CONTENT)
        write_folder(tmp_path / "photos_private", CONTENT)
        (tmp_path / "photos" / "link.jpg").symlink_to(tmp_path / "photos_private" / "a.jpg")
        with pytest.raises(InputError, match="outside this folder"):
            open_photos(tmp_path / "photos").read("link.jpg")

    @pytest.mark.parametrize("kind", ["pipe", "folder", "loop of links"])
    def test_what_is_no_file(self, tmp_path, kind):
        path = tmp_path / "a.jpg"
        make = {"pipe": os.mkfifo, "folder": os.mkdir, "loop of links": lambda path: path.symlink_to(path)}
        make[kind](path)
        photos = open_photos(tmp_path)
        assert photos.absent(["a.jpg"]) == {"a.jpg"}
        with pytest.raises(InputError, match=r"a\.jpg: (this is not a file|the file cannot be read)"):
            photos.read("a.jpg")

    @pytest.mark.parametrize("name", [b"a\\b.jpg", b"\xff.jpg"])
    def test_file_names_that_cannot_be_kept(self, tmp_path, name):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"")
        with pytest.raises(InputError, match="holds a backslash or is not UTF-8"):
            open_photos(tmp_path).names()


class TestZip:
    def test_absent_location(self, tmp_path):
        with pytest.raises(InputError, match=r"a\.zip: no such zip of photos: correct the path"):
            open_photos(tmp_path / "a.zip")

    def test_names_with_the_top_folder_are_found_too(self, tmp_path):
        photos = open_photos(write_zip(tmp_path / "a.zip", CONTENT | OTHERS, "train2017/"))
        assert photos.read("train2017/a.jpg") == photos.read("a.jpg") == b"first"
        assert photos.absent(["train2017/a.jpg"]) == set()

    def test_what_macs_add_does_not_hide_the_top_folder(self, tmp_path):
        content = {"photos/a.jpg": b"first", "__MACOSX/photos/._a.jpg": b"", ".DS_Store": b"", "LICENSE": b""}
        photos = open_photos(write_zip(tmp_path / "a.zip", content))
        assert photos.names() == ["a.jpg"]
        assert photos.read("a.jpg") == b"first"

    def test_full_names_where_short_ones_would_be_ambiguous(self, tmp_path):
        content = {"a/a/x.jpg": b"deep", "a/x.jpg": b"flat"}
        photos = open_photos(write_zip(tmp_path / "a.zip", content))
        assert photos.names() == sorted(content)
        assert {name: photos.read(name) for name in content} == content

    def test_name_in_utf8_without_the_flag(self, tmp_path):
        path = write_zip(tmp_path / "a.zip", {"ü.jpg": b"first"})
        data = bytearray(path.read_bytes())
        for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            at = data.index(signature) + offset
            data[at : at + 2] = bytes(2)
        path.write_bytes(data)
        assert open_photos(path).read("ü.jpg") == b"first"

    def test_folders_are_no_photos(self, tmp_path):
        path = write_zip(tmp_path / "a.zip", {"./": b"", "photos.jpg/": b"", "photos.jpg/a.jpg": b"first"})
        assert open_photos(path).names() == ["a.jpg"]

    @pytest.mark.parametrize("name", ["../evil.jpg", "a/../../evil.jpg", "/evil.jpg", "..\\evil.jpg", "../"])
    def test_members_that_lead_out(self, tmp_path, name):
        path = write_zip(tmp_path / "a.zip", {"a.jpg": b"", name: b""})
        with pytest.raises(InputError, match=r"a\.zip: the photo name '.*\.\..*|a\.zip: .*'/evil.jpg'"):
            open_photos(path)

    def test_encrypted(self, tmp_path):
        path = write_zip(tmp_path / "a.zip", {"a.jpg": b"first"})
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\1\2") + 8] |= 1
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"a\.zip: 'a\.jpg' is encrypted: zip the photos without"):
            open_photos(path)

    @pytest.mark.parametrize("damage", ["cut", "text", "empty"])
    def test_damaged_archive(self, tmp_path, damage):
        path = write_zip(tmp_path / "a.zip", CONTENT)
        data = path.read_bytes()
        path.write_bytes({"cut": data[:-30], "text": b"<html>404</html>" * 99, "empty": b""}[damage])
        with pytest.raises(InputError, match=r"a\.zip: this file cannot be read as a zip \(.+\): "):
            open_photos(path)

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @pytest.mark.parametrize("offset", [1, 100])
    def test_damaged_member(self, tmp_path, method, offset):
        path = write_zip(tmp_path / "a.zip", {"a.jpg": os.urandom(500)}, compression=method)
        data = bytearray(path.read_bytes())
        for at in range(offset, offset + 40):
            data[at] ^= 0x55
        path.write_bytes(data)
        with pytest.raises(
            InputError, match=r"a\.zip/a\.jpg: the zip is damaged here \(.+\): download or make"
        ):
            open_photos(path).read("a.jpg")

    def test_unusual_packing(self, tmp_path):
        path = write_zip(tmp_path / "a.zip", {"a.jpg": b"first"}, compression=zipfile.ZIP_LZMA)
        with pytest.raises(
            InputError, match=r"a\.jpg: the zip compresses this photo with method 14: make the zip again"
        ):
            open_photos(path).read("a.jpg")

    @pytest.mark.parametrize("declared", [300_000_000, 1000])
    def test_bomb(self, tmp_path, declared):
        """Neither what says that it is large nor what hides it is unpacked: 30 MB in 30 kB here."""
        path = write_zip(tmp_path / "a.zip", {"a.jpg": bytes(30_000_000)}, compression=zipfile.ZIP_DEFLATED)
        data = bytearray(path.read_bytes())
        for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
            at = data.index(signature) + offset
            data[at : at + 4] = struct.pack("<I", declared)
        path.write_bytes(data)
        photos = open_photos(path)
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match=r"larger than 256 MB|damaged here \(Bad CRC-32"):
                photos.read("a.jpg")
            assert tracemalloc.get_traced_memory()[1] < 1e6
        finally:
            tracemalloc.stop()

    def test_an_archive_that_changes_is_opened_again(self, tmp_path):
        photos = open_photos(write_zip(tmp_path / "a.zip", {"a.jpg": b"first"}))
        assert photos.read("a.jpg") == b"first"
        write_zip(tmp_path / "a.zip", {"a.jpg": b"the second"})
        assert photos.read("a.jpg") == b"the second"
