"""The ignored area of a photo, in the cells of a view."""

import cv2
import numpy as np
import pytest
import torch

from semipose.pipelines.people import IgnoredArea


def area(grid: np.ndarray, view_from_stored: np.ndarray, stored_hw: tuple[int, int]) -> IgnoredArea:
    matrix = cv2.invertAffineTransform(view_from_stored.astype(np.float64))
    return IgnoredArea(
        torch.from_numpy(grid.astype(np.float32))[None, None],
        torch.from_numpy(matrix.astype(np.float32))[None],
        torch.tensor([stored_hw], dtype=torch.float32),
    )


def test_every_cell_of_a_photo_without_ignored_people_counts() -> None:
    everything = area(np.zeros((128, 128)), np.eye(2, 3), (64, 96)).counted((16, 24), 4)
    assert everything.shape == (1, 1, 16, 24)
    assert everything.dtype == torch.float32
    assert everything.all()


def test_cells_outside_the_photo_do_not_count() -> None:
    """The photo is shown at (8, 4) and is 32 pixels wide, 20 high; its edge is half a pixel further out."""
    counted = area(np.zeros((128, 128)), np.array([[1, 0, 8], [0, 1, 4]]), (20, 32)).counted((10, 14), 4)
    expected = torch.zeros(10, 14)
    expected[1:6, 2:10] = 1  # y from 3.5 to 23.5, x from 7.5 to 39.5
    assert torch.equal(counted[0, 0], expected)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("degrees", [0, 30, -75])
def test_ignored_cells_are_those_over_the_ignored_pixels(flipped: bool, degrees: float) -> None:
    """Against the grid painted over the photo and warped into the view by OpenCV."""
    rng = np.random.default_rng(0)
    height, width = 96, 160
    grid = cv2.GaussianBlur(rng.random((128, 128)), (0, 0), 8)
    grid = (grid > np.median(grid)).astype(np.uint8)
    matrix = cv2.getRotationMatrix2D((80, 48), degrees, 0.8)
    if flipped:
        matrix[0] = -matrix[0]
        matrix[0, 2] += width - 1
    counted = area(grid, matrix, (height, width)).counted((24, 40), 4)[0, 0].numpy()

    y, x = np.mgrid[:height, :width]
    rows = ((y + 0.5) / height * 128).astype(int)
    columns = ((x + 0.5) / width * 128).astype(int)
    painted = 1 - grid[rows, columns].astype(np.float32)
    # Pixels all of whose neighbours agree: between two cells of the grid, a bilinear reading decides.
    around = np.ones((5, 5), np.uint8)
    sure = (cv2.erode(painted, around) == cv2.dilate(painted, around)).astype(np.float32)

    def warp(image: np.ndarray) -> np.ndarray:
        return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)[::4, ::4]

    shown, certain = warp(painted), warp(sure) > 0.99
    outside = warp(np.ones_like(painted)) == 0
    assert certain.mean() > 0.3
    assert np.array_equal(counted[certain] > 0, shown[certain] > 0.5)
    assert not counted[outside].any()
    assert 0.2 < counted.mean() < 0.6


def test_a_batch_gives_what_its_photos_give() -> None:
    torch.manual_seed(0)
    grid = (torch.rand(3, 1, 128, 128) > 0.5).float()
    matrix = torch.tensor([[1.0, 0, 3], [0, 1, 5]]).repeat(3, 1, 1)
    matrix[1] *= 0.7
    matrix[2, 0, 0] = -1
    sizes = torch.tensor([[64.0, 64], [80, 40], [30, 50]])
    together = IgnoredArea(grid, matrix, sizes).counted((12, 16), 4)
    for n in range(3):
        alone = IgnoredArea(grid[n : n + 1], matrix[n : n + 1], sizes[n : n + 1]).counted((12, 16), 4)
        assert torch.equal(together[n : n + 1], alone)
