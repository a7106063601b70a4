import numpy as np
import pytest
import scipy.io

from semipose.configs.load import InputError
from semipose.sharding.annotations.formats.lsp import LspFormat
from semipose.sharding.annotations.skeleton import LSP_14


@pytest.fixture
def lsp(tmp_path):
    rng = np.random.default_rng(0)
    joints = np.zeros((14, 3, 6))
    joints[:, :2] = rng.random((14, 2, 6)) * 100 + 20
    joints[:, 2] = 1
    joints[3, :, 1] = (-400, 900, 0)
    joints[1:, 2, 4] = 0
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints})
    return tmp_path, joints


def test_reads_range_in_order_and_counts_the_dropped(lsp):
    folder, joints = lsp
    annotations = LspFormat(joints=folder / "joints.mat", images=folder, first=2, last=6).read()
    assert [person.file_name for person in annotations.persons] == [
        f"im{number:05d}.jpg" for number in (2, 3, 4, 6)
    ]
    assert annotations.findings.counts("dropped") == {"fewer than 2 visible joints": 1}
    assert annotations.skeleton is LSP_14
    np.testing.assert_allclose(annotations.persons[1].keypoints[:, :2], joints[:, :2, 2], rtol=1e-6)
    assert (annotations.persons[1].keypoints[:, 2] == 2).all()


def test_default_range_is_the_whole_file(lsp):
    assert len(LspFormat(joints=lsp[0] / "joints.mat", images=lsp[0]).read().persons) == 5


def test_box_is_the_grown_extent_of_visible_joints_alone(lsp):
    folder, joints = lsp
    person = (
        LspFormat(joints=folder / "joints.mat", images=folder, first=2, last=2, box_margin=0.25)
        .read()
        .persons[0]
    )
    assert person.keypoints[3].tolist() == [0, 0, 0]
    seen = np.delete(joints[:, :2, 1], 3, axis=0)
    low, high = seen.min(0), seen.max(0)
    grow = 0.25 * (high - low).max()
    assert person.box_xywh == pytest.approx([*(low - grow), *(high - low + 2 * grow)])
    assert person.area == pytest.approx(0.53 * person.box_xywh[2] * person.box_xywh[3])


def test_range_beyond_the_file(lsp):
    with pytest.raises(InputError, match=r"joints\.mat: photo 7 was asked for, but the file has 6"):
        LspFormat(joints=lsp[0] / "joints.mat", images=lsp[0], last=7).read()


def test_range_the_wrong_way_round(lsp):
    with pytest.raises(ValueError, match=r"last \(2\) is before first \(3\)"):
        LspFormat(joints=lsp[0] / "joints.mat", images=lsp[0], first=3, last=2)


def test_other_files(lsp):
    folder, joints = lsp
    with pytest.raises(InputError, match="cannot be read"):
        LspFormat(joints=folder / "joint.mat", images=folder).read()
    scipy.io.savemat(folder / "original.mat", {"joints": joints.transpose(1, 0, 2)})
    with pytest.raises(InputError, match=r"shape \(3, 14, 6\), but those of LSPET have \(14, 3, n\)"):
        LspFormat(joints=folder / "original.mat", images=folder).read()
    scipy.io.savemat(folder / "else.mat", {"points": joints})
    with pytest.raises(InputError, match="no MATLAB file with `joints`"):
        LspFormat(joints=folder / "else.mat", images=folder).read()
    (folder / "cut.mat").write_bytes((folder / "joints.mat").read_bytes()[:300])
    with pytest.raises(InputError, match="no MATLAB file with `joints`"):
        LspFormat(joints=folder / "cut.mat", images=folder).read()


def test_real_joints(shared_data):
    folder = shared_data / "lspet"
    annotations = LspFormat(
        joints=folder / "joints.mat", images=folder / "images", first=4001, last=5000
    ).read()
    assert len(annotations.persons) == 1000
    assert annotations.persons[0].file_name == "im04001.jpg"
    heights = [person.box_xywh[3] for person in annotations.persons]
    assert 100 < np.median(heights) < 170
