"""The algebra of matrices and points."""

import math

import torch

from semipose.pipelines import geometry


def rotation(degrees: float, scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return torch.tensor([[[c, -s, shift[0]], [s, c, shift[1]]]])


def test_identity_leaves_points_where_they_are() -> None:
    points = torch.rand(3, 17, 2, generator=torch.Generator().manual_seed(0)) * 300
    assert torch.equal(geometry.apply(geometry.identity(3, points.device), points), points)


def test_compose_reads_right_to_left() -> None:
    turn, move = rotation(90), rotation(0, shift=(10, 0))
    point = torch.tensor([[[1.0, 0.0]]])
    torch.testing.assert_close(
        geometry.apply(geometry.compose(move, turn), point), torch.tensor([[[10.0, 1.0]]])
    )
    torch.testing.assert_close(
        geometry.apply(geometry.compose(turn, move), point), torch.tensor([[[0.0, 11.0]]])
    )


def test_invert_brings_points_back() -> None:
    matrix = rotation(33, 1.4, (50, -20))
    matrix[..., 0, 0] *= -1
    points = torch.rand(1, 17, 2, generator=torch.Generator().manual_seed(0)) * 300
    back = geometry.apply(geometry.invert(matrix), geometry.apply(matrix, points))
    torch.testing.assert_close(back, points, atol=1e-3, rtol=0)


def test_heatmap_matrix_moves_cells_as_the_matrix_moves_their_pixels() -> None:
    matrix, stride = rotation(20, 0.8, (13, -7)), 4
    cells = torch.tensor([[[0.0, 0.0], [5.0, 9.0], [47.0, 63.0]]])
    by_pixels = geometry.apply(matrix, cells * stride) / stride
    torch.testing.assert_close(geometry.apply(geometry.heatmap_matrix(matrix, stride), cells), by_pixels)


def test_linear_scale_ignores_rotation_shift_and_flip() -> None:
    matrix = rotation(70, 1.25, (100, 3))
    mirrored = geometry.compose(matrix, torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]]))
    torch.testing.assert_close(
        geometry.linear_scale(torch.cat((matrix, mirrored))), torch.tensor([1.25, 1.25])
    )


def test_flip_exchanges_left_and_right_of_mirrored_samples_only() -> None:
    points = torch.arange(12.0).view(2, 3, 2)
    visible = torch.tensor([[1.0, 1, 0], [1, 1, 0]])
    moved, seen = geometry.flip_keypoints(
        points, visible, torch.tensor([False, True]), torch.tensor([0, 2, 1])
    )
    assert torch.equal(moved[0], points[0])
    assert torch.equal(seen[0], visible[0])
    assert torch.equal(moved[1], points[1, [0, 2, 1]])
    assert seen[1].tolist() == [1, 0, 1]
