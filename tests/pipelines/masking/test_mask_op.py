"""`mask_keypoints` against a plain loop over pixels, on every device that there is."""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from semipose.pipelines import geometry
from semipose.pipelines.masking.masks import mask_keypoints

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
STILL = geometry.identity(1, torch.device("cpu"))


def plain_masks(images: Tensor, points_xy, counts, half_sizes, order, image_from_points, fill) -> Tensor:
    """The definition, pixel by pixel."""
    points_xy = geometry.apply(image_from_points, points_xy)
    half_sizes = half_sizes * geometry.linear_scale(image_from_points)[:, None, None]
    painted = images.clone()
    num_samples, _, height, width = images.shape
    for sample in range(num_samples):
        for joint in order[sample, : max(0, int(counts[sample]))].tolist():
            if not 0 <= joint < points_xy.shape[1]:
                continue
            low, high = (
                points_xy[sample, joint] - half_sizes[sample, joint],
                points_xy[sample, joint] + half_sizes[sample, joint],
            )
            for row in range(height):
                for column in range(width):
                    if low[0] <= column < high[0] and low[1] <= row < high[1]:
                        painted[sample, :, row, column] = fill.to(images.dtype)
    return painted


def make_case(
    num_samples: int = 3, num_keypoints: int = 6, size_hw: tuple[int, int] = (20, 14), *, seed: int = 0
) -> tuple[Tensor, ...]:
    """Random images, and points that are turned and sheared: some fall outside, some half outside."""
    draws = torch.Generator().manual_seed(seed)
    images = torch.randn(num_samples, 3, *size_hw, generator=draws)
    size_wh = torch.tensor([size_hw[1], size_hw[0]])
    points_xy = (torch.rand(num_samples, num_keypoints, 2, generator=draws) * 1.4 - 0.2) * size_wh
    half_sizes = torch.rand(num_samples, num_keypoints, 2, generator=draws) * 4
    order = torch.rand(num_samples, num_keypoints, generator=draws).argsort(dim=1)
    counts = torch.randint(1, num_keypoints + 1, (num_samples,), generator=draws)
    changes = torch.randn(num_samples, 2, 3, generator=draws) / 6
    matrices = geometry.identity(num_samples, images.device) + changes
    return images, points_xy, counts, half_sizes, order, matrices, torch.tensor([0.25, -1.5, 3.3])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64, torch.uint8])
def test_op_equals_plain_loop(dtype: torch.dtype, layout: torch.memory_format) -> None:
    images, *masks, fill = make_case()
    images = images.mul(9).abs().to(dtype).contiguous(memory_format=layout)
    expected = plain_masks(images, *masks, fill.abs())
    assert not torch.equal(expected, images)
    mask_keypoints(images, *masks, fill.abs())
    assert torch.equal(images, expected)
    assert images.is_contiguous(memory_format=layout)


def test_op_paints_a_view_of_a_larger_tensor_only() -> None:
    images, *masks, fill = make_case()
    whole = torch.zeros(3, 3, 30, 40)
    part = whole[:, :, 5:25, 3:31:2]
    part.copy_(images)
    mask_keypoints(part, *masks, fill)
    assert torch.equal(part, plain_masks(images, *masks, fill))
    part.zero_()
    assert not whole.any()


def test_integer_half_sizes_paint_exactly_twice_as_many_pixels() -> None:
    images = torch.zeros(1, 1, 60, 50)
    points_xy, half_sizes = torch.tensor([[[24.3, 30.0]]]), torch.tensor([[[10.0, 19.0]]])
    one, first = torch.tensor([1]), torch.tensor([[0]])
    mask_keypoints(images, points_xy, one, half_sizes, first, STILL, torch.ones(1))
    assert images[0, 0, 30].nonzero().flatten().tolist() == list(range(15, 35))
    assert images[0, 0, :, 24].nonzero().flatten().tolist() == list(range(11, 49))


@pytest.mark.parametrize(("count", "painted"), [(-1, 0), (0, 0), (2, 2), (6, 6), (99, 6)])
def test_count_is_kept_between_none_and_all(count: int, painted: int) -> None:
    images = torch.zeros(1, 1, 4, 30)
    points_xy = torch.stack([torch.arange(6) * 5.0 + 1, torch.full((6,), 2.0)], dim=-1)[None]
    order = torch.tensor([[3, 1, 0, 5, 4, 2]])
    counts, half_sizes = torch.tensor([count]), torch.ones(1, 6, 2)
    mask_keypoints(images, points_xy, counts, half_sizes, order, STILL, torch.ones(1))
    columns = images[0, 0, 2].nonzero().flatten() // 5
    assert set(columns.tolist()) == set(order[0, :painted].tolist())


BORDERS = {
    "left": ((-2.0, 10.0), (slice(6, 14), slice(0, 3))),
    "right": ((14.0, 10.0), (slice(6, 14), slice(9, 14))),
    "top": ((7.0, -1.0), (slice(0, 3), slice(2, 12))),
    "bottom": ((7.0, 19.5), (slice(16, 20), slice(2, 12))),
    "corner": ((13.0, 19.0), (slice(15, 20), slice(8, 14))),
}


@pytest.mark.parametrize("border", BORDERS)
def test_rectangle_is_cut_by_the_border(border: str) -> None:
    point_xy, area = BORDERS[border]
    images, expected = torch.zeros(1, 1, 20, 14), torch.zeros(1, 1, 20, 14)
    expected[:, :, area[0], area[1]] = 1
    points_xy, half_sizes = torch.tensor([[point_xy]]), torch.tensor([[[5.0, 4.0]]])
    one, first = torch.tensor([1]), torch.tensor([[0]])
    mask_keypoints(images, points_xy, one, half_sizes, first, STILL, torch.ones(1))
    assert torch.equal(images, expected)


WILD = [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 3e9, -3e9]


@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("axis", [0, 1])
def test_wild_points_paint_nothing(wild: float, axis: int) -> None:
    images, points_xy, _, half_sizes, order, matrices, fill = make_case()
    before = images.clone()
    points_xy[..., axis] = wild
    if not math.isfinite(wild):
        half_sizes[:, :3] = float("inf")  # inf - inf is no number
    mask_keypoints(images, points_xy, torch.full((3,), 6), half_sizes, order, matrices, fill)
    assert torch.equal(images, before)


def test_order_entries_that_are_no_keypoint_paint_nothing() -> None:
    images, points_xy, _, half_sizes, order, matrices, fill = make_case()
    before = images.clone()
    order = torch.where(order < 3, -1 - order, order + 3)
    mask_keypoints(images, points_xy, torch.full((3,), 6), half_sizes, order, matrices, fill)
    assert torch.equal(images, before)


@pytest.mark.parametrize("place", [(0, 0), (0, 2), (1, 1)])
@pytest.mark.parametrize("wild", [float("nan"), float("inf")])
def test_a_matrix_that_is_not_finite_paints_nothing(wild: float, place: tuple[int, int]) -> None:
    images, points_xy, _, half_sizes, order, matrices, fill = make_case()
    before = images.clone()
    matrices[:, place[0], place[1]] = wild
    mask_keypoints(images, points_xy, torch.full((3,), 6), half_sizes, order, matrices, fill)
    assert torch.equal(images, before)


def test_rectangle_moves_and_grows_with_the_matrix_and_stays_upright() -> None:
    images = torch.zeros(1, 1, 60, 50)
    points_xy, half_sizes = torch.tensor([[[10.0, 4.0]]]), torch.tensor([[[3.0, 5.0]]])
    quarter_turn = torch.tensor([[[0.0, -2.0, 40.0], [2.0, 0.0, 7.0]]])  # to (32, 27), twice as large
    one, first = torch.tensor([1]), torch.tensor([[0]])
    mask_keypoints(images, points_xy, one, half_sizes, first, quarter_turn, torch.ones(1))
    expected = torch.zeros(60, 50)
    expected[17:37, 26:38] = 1
    assert torch.equal(images[0, 0], expected)


def test_autograd_sees_that_the_images_changed() -> None:
    images, *masks, fill = make_case()
    version = images._version
    mask_keypoints(images, *masks, fill)
    assert images._version == version + 1


@pytest.mark.parametrize("shape", [(0, 3, 20, 14), (3, 3, 20, 0), (3, 0, 20, 14), (1, 3, 20, 14)])
def test_empty_and_single_batches(shape: tuple[int, ...]) -> None:
    _, *masks, fill = make_case(num_samples=shape[0])
    images, fill = torch.zeros(shape), fill[: shape[1]]
    expected = plain_masks(images, *masks, fill)
    mask_keypoints(images, *masks, fill)
    assert torch.equal(images, expected)


@pytest.mark.parametrize(
    ("position", "wrong", "words"),
    [
        (0, torch.zeros(3, 20, 14), r"images must be \(N, C, H, W\)"),
        (1, torch.zeros(2, 6, 2), r"points_xy must be \(3, 6, 2\)"),
        (1, torch.zeros(3, 6, 2, dtype=torch.bfloat16), "points_xy must be float32"),
        (2, torch.zeros(3), "counts must be integers"),
        (3, torch.zeros(3, 6), r"half_sizes must be \(3, 6, 2\)"),
        (4, torch.zeros(3, 5, dtype=torch.int64), r"order must be \(3, 6\)"),
        (5, torch.zeros(2, 3), r"image_from_points must be \(3, 2, 3\)"),
        (5, torch.zeros(3, 2, 3, dtype=torch.float64), "image_from_points must be float32"),
        (6, torch.zeros(1), r"fill must be \(3,\)"),
        (6, torch.zeros(3, device="meta"), "fill is on meta"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(position: int, wrong: Tensor, words: str) -> None:
    arguments = list(make_case())
    arguments[position] = wrong
    with pytest.raises(ValueError, match=words):
        mask_keypoints(*arguments)


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.semipose.mask_keypoints.default, make_case())


def test_op_compiles_into_one_graph() -> None:
    images, *masks, fill = make_case()

    def step(images: Tensor) -> Tensor:
        strong = images * 2
        mask_keypoints(strong, *masks, fill)
        return strong + 1

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(images), step(images))


def test_images_that_need_gradients_are_refused() -> None:
    images, *masks, fill = make_case()
    with pytest.raises(ValueError, match="has no gradient"):
        mask_keypoints(images.requires_grad_(), *masks, fill)


INTERPRETED = """
import sys
import torch
from semipose.pipelines.masking.triton_kernel import launch
case = torch.load(sys.argv[1])
for images, masks in case:
    launch(images, *masks)
torch.save([images for images, _ in case], sys.argv[1])
"""


@pytest.mark.slow
def test_triton_kernel_equals_cpu_kernel_in_the_interpreter(tmp_path) -> None:
    case, expected = [], []
    for dtype in DTYPES:
        for layout in LAYOUTS:
            images, points_xy, _, half_sizes, order, matrices, fill = make_case(2, 10, (24, 70))
            points_xy[0, : len(WILD), 0] = torch.tensor(WILD)
            half_sizes[0, 1] = float("inf")
            half_sizes[1, 0], half_sizes[1, 1] = float("inf"), float("nan")
            points_xy[1, 2], half_sizes[1, 2] = torch.tensor([33.0, 11.0]), torch.tensor([20.0, 9.0])
            order[1, 3] = 10
            half_sizes[1, 0, 1] = 0.6
            images = images.to(dtype).contiguous(memory_format=layout)
            masks = (points_xy, torch.tensor([99, 9]), half_sizes, order, matrices, fill)
            case.append((images.clone(memory_format=torch.preserve_format), masks))
            mask_keypoints(images, *masks)
            expected.append(images)
    assert not torch.equal(case[0][0], expected[0])
    torch.save(case, tmp_path / "case.pt")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run(
        [sys.executable, "-c", INTERPRETED, str(tmp_path / "case.pt")], env=environment, check=True
    )
    for painted, wanted in zip(torch.load(tmp_path / "case.pt"), expected, strict=True):
        assert torch.equal(painted, wanted)


@pytest.mark.parametrize("unit_stride", ["stride_w", "stride_c"])
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_triton_kernel_compiles_without_a_gpu(capability: int, unit_stride: str) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from semipose.pipelines.masking.triton_kernel import TILE_HW, paint

    # strides of 1 are constants at a launch: contiguous images have one such, channels-last another
    constants = {"TILE_H": TILE_HW[0], "TILE_W": TILE_HW[1], unit_stride: 1}
    signature = dict.fromkeys(paint.arg_names, "i32") | {
        "images": "*bf16",
        "fill": "*bf16",
        "points_xy": "*fp32",
        "half_sizes": "*fp32",
        "image_from_points": "*fp32",
        "counts": "*i64",
        "order": "*i64",
        **dict.fromkeys(constants, "constexpr"),
    }
    source = ASTSource(paint, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    binary = triton.compile(source, target=target, options={"enable_fp_fusion": False})
    assert f"sm_{capability}" in binary.asm["ptx"]
    assert binary.asm["cubin"]


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_kernel_equals_cpu_kernel(dtype: torch.dtype, layout: torch.memory_format) -> None:
    images, points_xy, counts, half_sizes, order, matrices, fill = make_case(32, 17, (256, 192))
    points_xy[0, : len(WILD), 0] = torch.tensor(WILD)
    half_sizes[1:] *= 8
    images = images.to(dtype).contiguous(memory_format=layout)
    arguments = (points_xy, counts, half_sizes, order, matrices, fill)
    on_gpu = images.cuda()
    moved = tuple(argument.cuda() for argument in arguments)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        mask_keypoints(on_gpu, *moved)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    mask_keypoints(images, *arguments)
    assert torch.equal(on_gpu.cpu(), images)
