"""Photos behind addresses: web servers that fail, object stores, chains, absent packages."""

import http.server
import json
import subprocess
import sys
import threading
import urllib.parse
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from semipose.configs.load import InputError
from semipose.sharding.annotations.boxes import ResultsBoxes
from semipose.sharding.annotations.formats.folder import FolderFormat
from semipose.sharding.annotations.photos import open_photos, url
from tests.pipelines.servers import BUCKET, drip, hang_up, redirect, send, serve, silent

ROOT = Path(__file__).resolve().parents[4]
CONTENT = {
    "a.jpg": b"first",
    "ü/日本 1.png": b"unicode and a space",
    "val2017/deep/100%#1?.webp": b"signs of addresses",
}


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT at /set/; `faults` holds what to answer first instead; ranges and HEAD are not known."""

    faults: list[int]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = urllib.parse.unquote(self.path).removeprefix("/set/")
        status = self.faults.pop(0) if self.faults else 200 if name in CONTENT else 404
        self.send_response(status)
        body = CONTENT.get(name, b"") if status == 200 else b"no"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    """The server's class; its `address` is that of the folder."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(url, "RETRY_SECONDS", (0.01, 0.01))
    handler = type("Handler", (Server,), {"faults": [], "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        handler.address = f"http://127.0.0.1:{running.server_port}/set"
        yield handler
        running.shutdown()
        thread.join()


class TestWeb:
    def test_each_photo_is_one_question(self, server):
        photos = open_photos(server.address + "/")
        assert {name: photos.read(name) for name in CONTENT} == CONTENT
        assert len(server.asked) == len(CONTENT)

    def test_absent(self, server):
        photos = open_photos(server.address)
        assert photos.absent([*CONTENT, "none.jpg", "a/b.jpg"]) == {"none.jpg", "a/b.jpg"}
        with pytest.raises(InputError, match=r"/set/none\.jpg: the photo is absent"):
            photos.read("none.jpg")

    def test_names_that_lead_out(self, server):
        with pytest.raises(InputError, match="leads out"):
            open_photos(server.address).absent(["../a.jpg"])
        assert not server.asked

    def test_there_is_no_list(self, server):
        with pytest.raises(InputError, match="/set: a web server does not list its photos: name them in"):
            open_photos(server.address).names()

    @pytest.mark.parametrize("method", ["read", "absent"])
    def test_faults_that_pass_are_tried_again(self, server, method):
        server.faults += [503, 500]
        photos = open_photos(server.address)
        assert photos.read("a.jpg") == b"first" if method == "read" else photos.absent(["a.jpg"]) == set()
        assert len(server.asked) == 3

    @pytest.mark.parametrize("method", ["read", "absent"])
    def test_faults_that_stay_are_not_absence(self, server, method):
        server.faults += [403] * 3
        photos = open_photos(server.address)
        with pytest.raises(
            InputError, match=r"/set/a\.jpg: this cannot be read \(403.*\): correct the address"
        ):
            photos.read("a.jpg") if method == "read" else photos.absent(["a.jpg"])

    def test_too_large(self, server, monkeypatch):
        monkeypatch.setattr(url, "MOST_BYTES", 4)
        with pytest.raises(InputError, match="is larger than"):
            open_photos(server.address).read("a.jpg")

    def test_no_server(self, monkeypatch):
        pytest.importorskip("aiohttp")
        monkeypatch.setattr(url, "RETRY_SECONDS", ())
        with pytest.raises(InputError, match="this cannot be read"):
            open_photos("http://127.0.0.1:9/set").read("a.jpg")


class TestFaultyServers:
    """Each fault is one sentence, and takes no longer than the budget."""

    @pytest.fixture
    def faulty(self, monkeypatch, tmp_path):
        pytest.importorskip("aiohttp")
        monkeypatch.setattr(url, "RETRY_SECONDS", (0.01, 0.01))
        monkeypatch.setattr(url, "BUDGET_S", 0.8)
        monkeypatch.setattr(url, "STALL_S", 0.5)
        monkeypatch.setattr(url, "NOTICE_S", 0.1)
        with serve(tmp_path) as server:
            yield server

    @pytest.mark.parametrize(("answer", "asked"), [(silent, 2), (drip, 1)])
    @pytest.mark.filterwarnings("ignore")
    def test_next_to_nothing_comes(self, faulty, answer, asked):
        faulty.answers["a.jpg"] = answer
        with (
            pytest.warns(
                UserWarning, match=rf"{faulty.url}/a\.jpg: this is waited for; nothing has come yet"
            ),
            pytest.raises(InputError, match=r"/a\.jpg: this cannot be read \(it did not come within 1 s\)"),
        ):
            open_photos(faulty.url).read("a.jpg")
        assert len(faulty.requests) == asked

    def test_others_are_not_waited_for(self, faulty, tmp_path):
        """Sizes and presence of a thousand photos are asked for sixteen at a time."""
        names = [f"{number}.jpg" for number in range(1000)]
        faulty.answers = dict.fromkeys(names, silent)
        (tmp_path / "list.json").write_text(
            json.dumps({"images": [{"id": number, "file_name": name} for number, name in enumerate(names)]})
        )
        (tmp_path / "boxes.json").write_text(
            json.dumps([{"image_id": number, "bbox": [1, 1, 5, 5]} for number in range(1000)])
        )
        boxes = ResultsBoxes(results=tmp_path / "boxes.json", images=tmp_path / "list.json")
        with warnings.catch_warnings(action="ignore"):
            with pytest.raises(InputError, match="it did not come within"):
                open_photos(faulty.url).absent(names)
            with pytest.raises(InputError, match="it did not come within"):
                FolderFormat(images=faulty.url, boxes=boxes).read()
        assert len(faulty.requests) < 200

    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            (redirect("/a.jpg"), "it is redirected more than 10 times"),
            (redirect("file:///etc/passwd"), "it is redirected to something else than http"),
            (redirect("http://[x"), "it is redirected to an address that is malformed"),
            (lambda handler: send(handler, b"", 503), "503 Service Unavailable"),
            (lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), "400 Bad status line"),
            (lambda handler: send(handler, b"x", Content_Length="9"), "the transfer broke off"),
            (hang_up, "the server gave no answer"),
        ],
    )
    def test_a_servers_refusal_is_explained_in_words(self, faulty, answer, says):
        faulty.answers["a.jpg"] = answer
        with pytest.raises(InputError) as error:
            open_photos(faulty.url).read("a.jpg")
        cure = "correct the address, or the rights to read it"
        assert str(error.value) == f"{faulty.url}/a.jpg: this cannot be read ({says}): {cure}"


class TestAddresses:
    def test_unknown_protocol(self):
        with pytest.raises(InputError, match=r"^nope://a: this cannot be read \(Protocol not known: nope\)"):
            open_photos("nope://a")

    @pytest.mark.parametrize(
        ("address", "package"),
        [
            ("s3://b/a", "s3fs"),
            ("gs://b/a", "gcsfs"),
            ("zip://::https://b/a.zip", "aiohttp"),
        ],
    )
    def test_absent_package(self, address, package):
        script = f"import sys; sys.modules['{package}'] = None; "
        script += f"from semipose.sharding.annotations.photos import open_photos; open_photos('{address}')"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
        last = done.stderr.splitlines()[-1]
        assert last.endswith(f"not installed: pip install {package}")
        assert f"InputError: {address}: a package for this protocol" in last

    def test_absent_folder(self):
        photos = open_photos("memory://nowhere/at-all")
        with pytest.raises(InputError, match=r"^memory://nowhere/at-all: no such folder of photos: correct"):
            photos.absent(["a.jpg"])
        with pytest.raises(InputError, match=r"^memory://nowhere/at-all: no such folder of photos: correct"):
            photos.names()

    def test_zip_of_hostile_names(self, tmp_path):
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../evil.jpg", b"")
        with pytest.raises(InputError, match="leads out"):
            open_photos(f"zip://::file://{path}").names()

    @pytest.mark.parametrize("damage", ["damaged", "absent"])
    def test_faulty_zip(self, tmp_path, damage):
        if damage == "damaged":
            (tmp_path / "a.zip").write_bytes(b"no zip")
        with pytest.raises(InputError, match=r"a\.zip: (this cannot be read|no such folder)"):
            open_photos(f"zip://::file://{tmp_path}/a.zip")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a bucket in a stand-in for S3, and the folder that it shows."""
    with serve(tmp_path) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        fsspec.filesystem("s3").clear_instance_cache()
        yield f"s3://{BUCKET}", tmp_path
        fsspec.filesystem("s3").clear_instance_cache()
        url.file_system.cache_clear()


def test_object_store(bucket, monkeypatch):
    monkeypatch.setattr(url, "RETRY_SECONDS", ())
    bucket, folder = bucket
    for name, payload in CONTENT.items():
        (folder / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "set" / name).write_bytes(payload)
    photos = open_photos(f"{bucket}/set")
    assert photos.names() == sorted(CONTENT)
    assert {name: photos.read(name) for name in CONTENT} == CONTENT
    assert photos.absent([*CONTENT, "later.jpg", "val2017/x.jpg", "nowhere/a.jpg"]) == {
        "later.jpg",
        "val2017/x.jpg",
        "nowhere/a.jpg",
    }
    with pytest.raises(InputError, match=r"set/later\.jpg: the photo is absent"):
        photos.read("later.jpg")
    (folder / "set" / "later.jpg").write_bytes(b"later")
    assert photos.absent(["later.jpg"]) == set()
    for nowhere in (f"{bucket}/none", "s3://no-such-bucket/set"):
        with pytest.raises(InputError, match="no such folder of photos"):
            open_photos(nowhere).absent(["a.jpg"])
        with pytest.raises(InputError, match="no such folder of photos"):
            open_photos(nowhere).names()
