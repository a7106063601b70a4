import numpy as np
import pytest

from semipose.configs.load import InputError
from semipose.sharding.samples.person import decode_pose, encode_pose


@pytest.mark.parametrize("num_keypoints", [1, 14, 17, 133])
def test_pose_round_trip(num_keypoints):
    rng = np.random.default_rng(num_keypoints)
    box, keypoints = rng.random(4) * 640, rng.random((num_keypoints, 3)) * 640
    payload = encode_pose(box, keypoints)
    assert len(payload) == 4 * (4 + 3 * num_keypoints)
    box_read, keypoints_read = decode_pose(payload, num_keypoints)
    np.testing.assert_array_equal(box_read, box.astype(np.float32))
    np.testing.assert_array_equal(keypoints_read, keypoints.astype(np.float32))


def test_layout_is_box_then_points_little_endian():
    payload = encode_pose(np.arange(4), np.arange(4, 10).reshape(2, 3))
    np.testing.assert_array_equal(np.frombuffer(payload, "<f4"), np.arange(10))


def test_other_skeleton_is_refused():
    payload = encode_pose(np.zeros(4), np.zeros((14, 3)))
    with pytest.raises(InputError, match="184 bytes, but 17 keypoints need 220"):
        decode_pose(payload, 17)
