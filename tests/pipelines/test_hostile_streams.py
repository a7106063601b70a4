"""Web servers and commands that mean no good, or are ill: bounded memory, bounded waiting, one sentence."""

import contextlib
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import pytest

from semipose.configs.load import InputError
from semipose.pipelines import shards, stream
from semipose.pipelines.loader import eval_loader, labelled_loader
from semipose.pipelines.source import labelled_split, open_split
from semipose.pipelines.temporary_folder import make_folder
from semipose.sharding.store.index import read_index
from tests.pipelines.conftest import PEOPLE
from tests.pipelines.servers import FileServer, Handler, drip, hang_up, pipe_of, redirect, send, silent
from tests.pipelines.test_loader import VIEWS, shown_samples
from tests.pipelines.test_lost_samples import first_batches, stream_of

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("quick_retries")


class Endless:
    """Sends zeros until nobody listens; counts them."""

    def __init__(self, start: bytes = b"") -> None:
        self.start, self.sent = start, 0

    def __call__(self, handler: Handler) -> None:
        send(handler, self.start)
        while not handler.server.is_over.is_set():
            handler.wfile.write(bytes(1 << 16))
            self.sent += 1 << 16


@pytest.mark.parametrize("name", ["dataset.json", "test-000001.idx", "ground_truth.json"])
def test_no_small_file_is_read_without_end(
    people_folder: Path, server: FileServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MANIFEST_BYTES", 200_000)
    monkeypatch.setattr(shards, "TRUTH_BYTES", 200_000)
    server.answers[name] = endless = Endless()
    with pytest.raises(InputError, match=rf"/{name}: the file is larger than the expected [\d,]+ bytes"):
        open_split(server.url)
    assert endless.sent < 20_000_000, "what the sockets and pipes between them hold, and no more"


def header_of(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (header_of("000000007.jpg", 3 << 30), r"it has 000000007\.jpg \(3221225472 bytes\) where the index"),
        (
            header_of("././@PaxHeader", 2 << 30, tarfile.XHDTYPE),
            r"it has \./\./@PaxHeader \(2147483648 bytes\)",
        ),
        (header_of("././@LongLink", 2 << 30, tarfile.GNUTYPE_LONGNAME), r"it has \./\./@LongLink \("),
        (gzip.compress(bytes(3_000_000), mtime=0) * 9, r"there is no tar header before 000000007\.jpg"),
        (b"", r"there is no tar header before 000000007\.jpg"),
    ],
    ids=["size", "pax", "gnu", "gzip", "zeros"],
)
def test_no_member_is_read_that_the_index_does_not_name(server: FileServer, start: bytes, says: str) -> None:
    split = open_split(server.url)
    server.answers["test-000001.tar"] = endless = Endless(start)
    with pytest.raises(InputError, match=rf"test-000001\.tar: {says}"):
        list(islice(stream_of(split), 10))
    assert endless.sent < 20_000_000


def test_no_tar_is_read_beyond_its_end(people_folder: Path, server: FileServer) -> None:
    split = open_split(server.url)
    server.answers["test-000002.tar"] = Endless((people_folder / "test-000002.tar").read_bytes())
    with pytest.raises(
        InputError, match=r"test-000002\.tar: it continues after the last member of its index"
    ):
        list(islice(stream_of(split), 10))


def flip(tar: Path, place: int) -> None:
    """Flip a bit in a photo where nothing but a hash shows it."""
    jpg = read_index(tar.with_suffix(".idx"))[place][0]
    content = bytearray(tar.read_bytes())
    content[jpg.offset + jpg.size - 40] ^= 1
    tar.write_bytes(content)


ALTERED = r"test-000001\.tar: its SHA-256 is not that of the manifest: 7 lost"


@pytest.mark.parametrize("place", [0, 6])
def test_a_flipped_bit_stops_the_run_at_the_end_of_its_tar(
    people_folder: Path, root: str, place: int
) -> None:
    split = open_split(root)
    flip(people_folder / "test-000001.tar", place)
    with pytest.raises(InputError, match=ALTERED):
        list(islice(stream_of(split), 10))
    for batch_size in (1, PEOPLE, 4):
        with pytest.raises(InputError, match=ALTERED):
            list(eval_loader(split, VIEWS, batch_size=batch_size))


@pytest.mark.parametrize("batch_size", [1, 3, PEOPLE])
def test_a_flipped_bit_in_the_last_tar_is_named_before_scoring_ends(
    people_folder: Path, root: str, batch_size: int
) -> None:
    split = open_split(root)
    flip(people_folder / "test-000002.tar", 2)
    with pytest.raises(InputError, match=r"test-000002\.tar: its SHA-256 is not that of the manifest"):
        list(eval_loader(split, VIEWS, batch_size=batch_size))


def test_a_subset_compares_its_tars_in_its_first_pass(people_folder: Path, root: str, tmp_path: Path) -> None:
    """The altered sample is not one of them, and lies behind them."""
    labelled = labelled_split(open_split(root), 3, index_dir=tmp_path)
    flip(people_folder / "test-000000.tar", 5)
    with pytest.raises(InputError, match=r"test-000000\.tar: its SHA-256 is not that of the manifest"):
        next(labelled_loader(labelled, VIEWS, batch_size=3, seed=0))


def test_an_altered_tar_is_left_out_from_the_next_pass_on(people_folder: Path) -> None:
    """Where so many may be lost; a stream resumed in that pass or later gives the same."""
    split = open_split(pipe_of(people_folder))
    flip(people_folder / "test-000001.tar", 3)
    loader = stream_of(split, bad_samples=7)
    with pytest.warns(UserWarning, match=f"{ALTERED}, 7 in total of 7 allowed"):
        batches = [next(loader) for _ in range(4)]
    state = loader.state_dict()
    later = [next(loader) for _ in range(6)]
    shown = [i for batch in [*batches, *later] for i in shown_samples(batch.image)]
    assert set(shown[:PEOPLE]) == set(range(PEOPLE)), "the pass in which it was found"
    assert set(shown[PEOPLE:]) == set(range(PEOPLE)) - set(range(7, 14))
    resumed = stream_of(split, bad_samples=7)
    resumed.load_state_dict(state)
    again = [i for batch in islice(resumed, 6) for i in shown_samples(batch.image)]
    assert again == shown[16:]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two minutes become a second."""
    monkeypatch.setattr(stream, "BUDGET_S", 1.2)
    monkeypatch.setattr(stream, "STALL_S", 0.6)
    monkeypatch.setattr(stream, "NOTICE_S", 0.1)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("answer", [silent, drip])
@pytest.mark.parametrize("name", ["dataset.json", "test-000001.tar"])
def test_a_server_that_gives_next_to_nothing_is_waited_for_within_one_budget(
    server: FileServer, answer: Callable[[Handler], None], name: str
) -> None:
    """Opened twice, and named while it is waited for."""
    split = open_split(server.url) if name.endswith("tar") else None
    server.answers[name] = answer
    server.requests.clear()
    with (
        pytest.warns(UserWarning, match="waiting for") as said,
        pytest.raises(InputError, match=rf"/{name}: .*bytes arrived in 1 s") as error,
    ):
        list(islice(stream_of(split), 10)) if split else open_split(server.url)
    assert "\n" not in str(error.value)
    assert server.requests.count(("GET", name)) == 2
    waiting = [str(warning.message) for warning in said if "waiting for" in str(warning.message)]
    assert f"{server.url}/{name}: waiting for this file; almost nothing arrives" in waiting


@pytest.mark.usefixtures("hasty")
def test_a_command_that_says_nothing_is_waited_for_within_the_budget() -> None:
    with (
        pytest.warns(UserWarning, match=r"sleep 9 # dataset\.json: waiting for this file"),
        pytest.raises(
            InputError, match=r"dataset\.json: the file cannot be read \(no bytes arrived in 1 s\)"
        ),
    ):
        open_split("pipe:exec sleep 9 # {file}")


@pytest.mark.usefixtures("hasty")
@pytest.mark.filterwarnings("ignore")
def test_a_stall_that_passes_is_no_fault(people_folder: Path, server: FileServer) -> None:
    """Of a tar in the middle, and of small files."""

    def stall(name: str) -> Callable[[Handler], None]:
        def answer(handler: Handler) -> None:
            del handler.server.answers[name]
            send(handler, (people_folder / name).read_bytes()[:3000], Content_Length="99999")
            handler.server.is_over.wait(20)

        return answer

    server.answers = {name: stall(name) for name in ("dataset.json", "test-000001.idx", "test-000001.tar")}
    assert first_batches(server.url) == first_batches(people_folder)
    assert not server.answers


def test_a_trainer_that_does_not_ask_is_not_waited_for(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time in which nobody reads does not count, however much of the tar has not come yet."""
    split = open_split(server.url)
    arriving = stream.read_tar(split.tars[0], read_index(split.indices[0]), range(7), ("jpg",))
    next(arriving)
    monkeypatch.setattr(stream, "BUDGET_S", 0.2)
    monkeypatch.setattr(stream, "NOTICE_S", 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            time.sleep(0.1)
            next(arriving)


@pytest.mark.filterwarnings("ignore:.*opened again")
@pytest.mark.parametrize(
    ("answer", "says", "asked"),
    [
        (
            lambda handler: send(handler, b"", 404),
            "the server answered with status 404, which means that the file",
            1,
        ),
        (lambda handler: send(handler, b"", 401), r"the server answered with status 401\)", 1),
        (lambda handler: send(handler, b"", 503), r"the server answered with status 503\)", 4),
        (redirect("dataset.json"), "it is redirected more than 10 times", 11),
        (redirect("file:///etc/passwd"), "it redirects to something other than http", 1),
        (redirect("ftp://127.0.0.1/x"), "it redirects to something other than http", 1),
        (hang_up, "the server gave no answer", 4),
        (
            lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"),
            "something other than http, or is not answered in http",
            1,
        ),
        (lambda handler: send(handler, b"{", Content_Length="9"), "the transfer broke off", 4),
    ],
)
def test_a_servers_refusal_is_explained_in_words(
    server: FileServer, answer: Callable[[Handler], None], says: str, asked: int
) -> None:
    """What another try would not change is not tried again."""
    server.answers["dataset.json"] = answer
    with pytest.raises(InputError, match=rf"^{server.url}/dataset\.json: the file cannot be read \(.*{says}"):
        open_split(server.url)
    assert len(server.requests) == asked


def test_a_host_and_a_command_that_are_not_there() -> None:
    with pytest.raises(InputError, match=r"curl: the host is not known|curl: no connection"):
        open_split("http://no-such-host.invalid/shards")


NAMES = ["my set", "set#1", "100%", "a%20b", "a[1]", "{a,b}", "what?", "ä+ö", "it's", "$(id);x", "a&b=c~"]


def everything(root: str) -> list[tuple[int, stream.Payloads]]:
    split = open_split(root)
    return [
        found
        for part in split.parts(range(split.num_samples))
        for found in stream.read_tar(part.tar, read_index(part.idx), part.in_tar, ("jpg", "pose"))
    ]


def test_shards_of_any_name_are_read_over_http(people_folder: Path, server: FileServer) -> None:
    """The last part of each address is made here; the folder may be typed as it is, as far as that can be."""
    manifest = json.loads((people_folder / "dataset.json").read_text())
    del manifest["sha256"]  # of the names as they were
    expected = everything(pipe_of(people_folder))
    for name in NAMES:
        folder = people_folder / name
        folder.mkdir()
        renamed = json.loads(json.dumps(manifest))
        for number, shard in enumerate(renamed["shards"]):
            for suffix in (".tar", ".idx"):
                old = people_folder / Path(shard["file"]).with_suffix(suffix)
                shutil.copy(old, folder / f"{name}-{number:06d}{suffix}")
            shard["file"] = f"{name}-{number:06d}.tar"
        (folder / "dataset.json").write_text(json.dumps(renamed))
        shutil.copy(people_folder / "ground_truth.json", folder)
        typed = [quote(name)] + ([name] if not re.search(r"%\d\d|\?", name) else [])
        for path in typed:
            assert everything(f"{server.url}/{path}") == expected
        with pytest.raises(InputError, match=r"cannot be part of a command: give the shards a name of plain"):
            open_split(pipe_of(folder))


def run(script: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
    )


@pytest.mark.slow
def test_temporary_folders_of_killed_processes_go_at_the_next_start(
    tmp_path: Path, people_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of living ones stay, and whatever else has such a name."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    (temporary / "semipose-other").mkdir()
    (temporary / "semipose-link").symlink_to(people_folder)
    script = f"""
from semipose.pipelines.shards import open_shards
kept = open_shards({pipe_of(people_folder)!r})
print(kept.folder, flush=True)
input()
"""
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(run(script, temporary)) for _ in range(2))
        folders = [Path(process.stdout.readline().strip()) for process in (first, second)]
        first.kill()
        first.wait()
        mine = open_split(pipe_of(people_folder))
        assert [folder.exists() for folder in folders] == [False, True]
        own = mine.shards.folder
        del mine
        second.kill()
    make_folder()[1]()
    assert sorted(path.name for path in temporary.iterdir()) == ["semipose-link", "semipose-other"]
    assert not own.exists()
    assert (people_folder / "dataset.json").exists()
