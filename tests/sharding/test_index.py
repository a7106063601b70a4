import io
import tarfile

import pytest

from configs.load import InputError
from sharding.index import build_index, read_index, subset_index


def write_tar(path, names):
    with tarfile.open(path, "w:", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name) * 100
            tar.addfile(info, io.BytesIO(name.encode() * 100))
    return path


@pytest.fixture
def tar_path(tmp_path):
    names = [f"{key:03d}.{extension}" for key in range(5) for extension in ("jpg", "json", "pose")]
    return write_tar(tmp_path / "a-000000.tar", names)


def test_equals_the_index_of_dalis_own_tool(tar_path, tmp_path):
    wds2idx = pytest.importorskip("wds2idx")
    with wds2idx.IndexCreator(str(tar_path), str(tmp_path / "theirs.idx"), verbose=False) as creator:
        creator.create_index()
    assert build_index(tar_path).read_bytes() == (tmp_path / "theirs.idx").read_bytes()


def test_components_point_at_their_bytes(tar_path):
    samples = read_index(build_index(tar_path))
    content = tar_path.read_bytes()
    assert [[c.extension for c in sample] for sample in samples] == [["jpg", "json", "pose"]] * 5
    for component in (component for sample in samples for component in sample):
        assert content[component.offset :][: component.size] == component.member.encode() * 100


def test_subset_keeps_the_samples_asked_for_in_their_order(tar_path, tmp_path):
    idx = build_index(tar_path)
    subset = read_index(subset_index(idx, tmp_path / "s.idx", [3, 0]))
    assert subset == [read_index(idx)[3], read_index(idx)[0]]
    assert read_index(subset_index(idx, tmp_path / "none.idx", [])) == []


def test_subset_beyond_the_end(tar_path, tmp_path):
    with pytest.raises(InputError, match="sample 5 was asked for, but the shard has 5 samples"):
        subset_index(build_index(tar_path), tmp_path / "s.idx", [0, 5])
    assert not (tmp_path / "s.idx").exists()


@pytest.mark.parametrize("cut_at", [700, 512 * 3, 512 * 4 + 100, 512 * 39 + 200, 512 * 45])
def test_cut_tar(tar_path, cut_at):
    tar_path.write_bytes(tar_path.read_bytes()[:cut_at])
    with pytest.raises(InputError, match=r"a-000000\.tar: this is no whole tar file"):
        build_index(tar_path)


def test_what_is_no_tar(tmp_path):
    (tmp_path / "x.tar").write_text("not a tar" * 200)
    with pytest.raises(InputError, match="no whole tar"):
        build_index(tmp_path / "x.tar")


def test_members_of_a_sample_apart(tmp_path):
    tar = write_tar(tmp_path / "x.tar", ["a.jpg", "b.jpg", "a.pose", "b.pose"])
    with pytest.raises(InputError, match="sample a are not adjacent"):
        build_index(tar)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the head says ''"),
        ("v1.1 1\njpg 512 3 a.jpg\n", "the head says 'v1.1 1'"),
        ("v1.2 2\njpg 512 3 a.jpg\n", "1 samples were expected"),
        ("v1.2 1\njpg 512 three a.jpg\n", "line 2 is no index line"),
        ("v1.2 1\njpg 512\n", "line 2 is no index line"),
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
