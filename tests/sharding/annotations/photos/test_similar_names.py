"""A photo that is absent under its name, and there under nearly the same: the message says which."""

import unicodedata
import zipfile

import pytest

from semipose.sharding.annotations.photos import Photos, open_photos
from semipose.sharding.annotations.photos.similar_names import NearNames

THERE = [
    "0001.JPG",
    "my photo 1.jpg",
    "c.jpg",
    "e.jpeg",
    unicodedata.normalize("NFD", "müller.png"),
    "train/d.jpg",
    "clip1/0007.jpg",
    "clip2/0007.jpg",
    "clip2/0008.jpg",
    "100%25.webp",
    "\uff21.bmp",
]
NAMED = {
    "case of the ending": ("0001.jpg", "0001.JPG"),
    "case": ("C.jpg", "c.jpg"),
    "percent": ("my%20photo%201.jpg", "my photo 1.jpg"),
    "percent twice": ("my%2520photo%25201.jpg", "my photo 1.jpg"),
    "plus": ("my+photo+1.jpg", "my photo 1.jpg"),
    "underscores": ("my_photo_1.jpg", "my photo 1.jpg"),
    "percent that is there": ("100%.webp", "100%25.webp"),
    "a folder in front": ("images/c.jpg", "c.jpg"),
    "a folder missing": ("d.jpg", "train/d.jpg"),
    "another folder": ("images/d.jpg", "train/d.jpg"),
    "absolute": ("/data/upload/1/c.jpg", "c.jpg"),
    "absolute of Windows": ("C:\\data\\clip1\\0007.jpg", "clip1/0007.jpg"),
    "leading out": ("../images/c.jpg", "c.jpg"),
    "backslash and case": ("Clip2\\0007.JPG", "clip2/0007.jpg"),
    "other ending": ("e.jpg", "e.jpeg"),
    "no ending": ("c", "c.jpg"),
    "ending twice": ("c.jpg.jpg", "c.jpg"),
    "composed letters": (
        unicodedata.normalize("NFC", "müller.png"),
        unicodedata.normalize("NFD", "müller.png"),
    ),
    "wide letters": ("A.bmp", "\uff21.bmp"),
    "a tool's prefix": ("daa66d13-my_photo_1.jpg", "my photo 1.jpg"),
    "leading zeros": ("clip2/8.jpg", "clip2/0008.jpg"),
    "a space at the end": ("c.jpg ", "c.jpg"),
    "another clip's frame": ("clip3/0007.jpg", None),
    "nothing like it": ("z.jpg", None),
    "empty": ("", None),
}


@pytest.fixture(scope="module", params=["folder", "zip"])
def photos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Photos:
    folder = tmp_path_factory.mktemp("photos")
    for name in THERE:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    if request.param == "folder":
        return open_photos(folder)
    path = tmp_path_factory.mktemp("zip") / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in THERE:
            archive.write(folder / name, name)
    return open_photos(path)


@pytest.mark.parametrize("kind", NAMED)
def test_the_photo_that_a_wrong_name_means_is_found(photos: Photos, kind: str) -> None:
    named, there = NAMED[kind]
    assert NearNames(photos).find(named) == there
    if kind != "composed letters":
        assert NearNames(photos).told(named) == ("" if there is None else f" ({there} is there)")


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_that_look_the_same_are_told_apart(tmp_path, form: str, other: str) -> None:
    """macOS writes decomposed letters."""
    there, named = unicodedata.normalize(form, "ü.jpg"), unicodedata.normalize(other, "ü.jpg")
    (tmp_path / there).write_bytes(b"x")
    told = NearNames(open_photos(tmp_path)).told(named)
    assert told.startswith(f" ({there} is there, which differs only in the Unicode form of a letter: ")
    assert "bring both names to the form NFC" in told


def test_a_location_that_cannot_be_listed_has_no_answer() -> None:
    assert NearNames(open_photos("http://127.0.0.1:9/photos")).find("a.jpg") is None


def test_a_broken_link_is_called_one(tmp_path) -> None:
    (tmp_path / "a.jpg").symlink_to("nothing.jpg")
    assert NearNames(open_photos(tmp_path)).told("a.jpg") == " (a link to a file that is not there)"
