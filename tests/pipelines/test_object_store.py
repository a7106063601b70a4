"""Shards in an object store, behind a stub of S3: DALI's own reader gives the batches of a local folder."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from semipose.configs.load import InputError
from semipose.pipelines.loader import LoaderSettings, eval_loader, labelled_loader, unlabelled_loader
from semipose.pipelines.source import labelled_split, open_split
from tests.pipelines.conftest import PEOPLE
from tests.pipelines.servers import BUCKET, cut, serve_apart, swap
from tests.pipelines.test_loader import VIEWS, bits


def test_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(protocol: str) -> None:
        raise ImportError(f"Install the library for {protocol}")

    monkeypatch.setattr(fsspec, "filesystem", without)
    for scheme, package in (("s3", "s3fs"), ("gs", "gcsfs")):
        with pytest.raises(InputError, match=rf"needs {package}: pip install {package}$"):
            open_split(f"{scheme}://bucket/shards")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a bucket. One server for all tests: DALI's client reads the environment once."""
    pytest.importorskip("s3fs")
    folder = tmp_path_factory.mktemp("bucket")
    with serve_apart(folder) as url, pytest.MonkeyPatch.context() as env:
        env.delenv("AWS_CA_BUNDLE", raising=False)
        env.delenv("http_proxy", raising=False)
        for name, value in {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            env.setenv(name, value)
        yield folder


def test_object_store_equals_local_shards(people_folder: Path, s3: Path, tmp_path: Path) -> None:
    shutil.copytree(people_folder, s3 / "whole")
    here, there = open_split(people_folder), open_split(f"s3://{BUCKET}/whole/")
    assert here.ids_sha256 == there.ids_sha256
    for make in (labelled_loader, unlabelled_loader):
        loaders = [
            make(
                labelled_split(split, 9, subset_seed=1, index_dir=tmp_path / str(i)),
                VIEWS,
                batch_size=4,
                seed=3,
                settings=LoaderSettings(shuffle_buffer=6),
            )
            for i, split in enumerate((here, there))
        ]
        for _ in range(4):
            assert bits(next(loaders[0])) == bits(next(loaders[1]))
    ids = [
        [r["id"] for batch in eval_loader(s, VIEWS, batch_size=8) for r in batch.records]
        for s in (here, there)
    ]
    assert ids[0] == ids[1] == list(range(100, 100 + PEOPLE))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (cut, r"test-000001\.tar: the shard was cut short: 9000 bytes instead of 40960"),
        (Path.unlink, r"test-000001\.tar: the store has no such file"),
        (
            lambda tar: tar.with_suffix(".idx").unlink(),
            r"test-000001\.idx: the store has no such file",
        ),
        (
            lambda tar: tar.write_bytes(bytes(tar.stat().st_size)),
            r"test-000001\.tar: there is no tar header before 000000007\.jpg",
        ),
        (swap, r"test-000001\.tar: it has 000000000\.jpg .* where the index has 000000007\.jpg"),
    ],
)
def test_faults_in_an_object_store_are_named(
    people_folder: Path, s3: Path, fault: Callable[[Path], None], says: str, request: pytest.FixtureRequest
) -> None:
    name = f"faulty{abs(hash(request.node.name))}"
    shutil.copytree(people_folder, s3 / name)
    fault(s3 / name / "test-000001.tar")
    with pytest.raises(InputError, match=rf"^s3://{BUCKET}/{name}/{says}") as error:
        open_split(f"s3://{BUCKET}/{name}")
    assert "\n" not in str(error.value)
