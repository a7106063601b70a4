import tarfile

import pytest
import webdataset as wds

from semipose.configs.load import InputError
from semipose.sharding.samples.sample import Sample, frame
from semipose.sharding.store.index import Component, read_index, subset_index
from semipose.sharding.store.tar_check import check_index_alone
from semipose.sharding.store.write import write_shards


@pytest.fixture
def tar_path(tmp_path):
    samples = [Sample(jpg=b"x" * (300 * i), pose=bytes(220), json=b"{}" * i) for i in range(5)]
    framed = (frame(sample, f"{key:09d}") for key, sample in enumerate(samples))
    (entry,) = write_shards(tmp_path, "a", framed, 10)
    return tmp_path / entry.file


def test_tar_is_what_others_read(tar_path):
    with tarfile.open(tar_path) as tar:
        members = list(tar)
        assert [member.name for member in members] == [
            f"{key:09d}.{extension}" for key in range(5) for extension in ("jpg", "pose", "json")
        ]
        assert tar.extractfile("000000002.jpg").read() == b"x" * 600
    assert tar_path.stat().st_size % tarfile.RECORDSIZE == 0
    samples = list(wds.WebDataset(str(tar_path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{key:09d}" for key in range(5)]
    assert [len(sample["json"]) for sample in samples] == [0, 2, 4, 6, 8]


def test_equals_the_index_of_dalis_own_tool(tar_path, tmp_path):
    wds2idx = pytest.importorskip("wds2idx")
    with wds2idx.IndexCreator(str(tar_path), str(tmp_path / "theirs.idx"), verbose=False) as creator:
        creator.create_index()
    assert tar_path.with_suffix(".idx").read_bytes() == (tmp_path / "theirs.idx").read_bytes()


def test_components_point_at_their_bytes(tar_path):
    content = tar_path.read_bytes()
    samples = read_index(tar_path.with_suffix(".idx"))
    assert [[c.extension for c in sample] for sample in samples] == [["jpg", "pose", "json"]] * 5
    for number, sample in enumerate(samples):
        found = [content[component.offset :][: component.size] for component in sample]
        assert found == [b"x" * (300 * number), bytes(220), b"{}" * number]


def test_subset_keeps_the_samples_asked_for_in_their_order(tar_path, tmp_path):
    idx = tar_path.with_suffix(".idx")
    subset = read_index(subset_index(idx, tmp_path / "s.idx", [3, 0]))
    assert subset == [read_index(idx)[3], read_index(idx)[0]]
    assert read_index(subset_index(idx, tmp_path / "none.idx", [])) == []


def test_subset_beyond_the_end(tar_path, tmp_path):
    with pytest.raises(InputError, match="sample 5 was asked for, but the shard has 5 samples"):
        subset_index(tar_path.with_suffix(".idx"), tmp_path / "s.idx", [0, 5])
    assert not (tmp_path / "s.idx").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the first line is ''"),
        ("v1.1 1\njpg 512 3 a.jpg\n", "the first line is 'v1.1 1'"),
        ("v1.2 2\njpg 512 3 a.jpg\n", "the first line is 'v1.2 2' instead of 'v1.2' and 1 samples"),
        ("v1.2 1\njpg 512 three a.jpg\n", "line 2 is not a line of an index"),
        ("v1.2 1\njpg 512\n", "line 2 is not a line of an index"),
    ],
)
def test_malformed_index(tmp_path, text, words):
    (tmp_path / "x.idx").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        read_index(tmp_path / "x.idx")
    assert str(tmp_path / "x.idx") in str(error.value)


def test_missing_index(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_index(tmp_path / "none.idx")


EXTENSIONS = ("jpg", "pose", "json")


def components(*starts_and_sizes, key="000000001"):
    return tuple(
        Component(name, start, size, f"{key}.{name}")
        for name, (start, size) in zip(EXTENSIONS, starts_and_sizes, strict=True)
    )


SOUND = components((512, 700), (2048, 220), (3072, 90))
END = 3072 + 512 + 1024


def test_a_sound_index_passes_without_its_tar():
    check_index_alone([SOUND], tar="s3://a/b.tar", tar_bytes=END, extensions=EXTENSIONS)
    most = END + tarfile.RECORDSIZE
    check_index_alone([SOUND], tar="s3://a/b.tar", tar_bytes=most, extensions=EXTENSIONS)


@pytest.mark.parametrize(
    ("samples", "tar_bytes", "words"),
    [
        ([], 10240, "no sample in the tar"),
        (
            [components((512, 700), (2560, 220), (3584, 90))],
            END + 512,
            "member 000000001.pose: it does not follow",
        ),
        ([components((512, 700), (2048, -1), (2560, 90))], END, "member 000000001.pose: it does not follow"),
        ([SOUND[:2], SOUND[2:]], END, "sample 000000001: the index says otherwise than the tar"),
        ([SOUND[:2]], END - 1024, "member 000000001.json: member missing"),
        ([components((512, 700), (2048, 220), (3072, 90), key="a/b")], END, "sample a/b: folder in the name"),
        (
            [tuple(component._replace(member="000000001") for component in SOUND)],
            END,
            r"member 000000001: member that a sample should not have \(only jpg, pose, json\)",
        ),
        ([SOUND], END - 1, "the tar ends without the zeros that end one"),
        ([SOUND], END + tarfile.RECORDSIZE + 1, "the tar goes on after its end"),
    ],
)
def test_an_index_that_cannot_be_of_its_tar_is_refused(samples, tar_bytes, words):
    with pytest.raises(InputError, match=words) as error:
        check_index_alone(samples, tar="s3://a/b.tar", tar_bytes=tar_bytes, extensions=EXTENSIONS)
    assert str(error.value).startswith("s3://a/b.tar: ")
    assert "\n" not in str(error.value)
