"""The DALI graphs: shards in, views out. Only this file and photo_graph.py import `nvidia.dali`.

CPU and GPU share one definition: reading, random numbers and matrices are always on the CPU; decoding and
warping are on `Reading.device`. Every view has one matrix from stored pixels, which is drawn here from the
pipeline's seed and warped by `fn.experimental.warp_perspective` (bit-equal to cv2.warpAffine on the CPU;
`fn.warp_affine` is eight times slower and has its origin at a corner). With `Reading.crops` a graph ends with
the decoded pixels and the matrices, as a CPU run needs it (view_pipeline.py). A graph is a function from
`Reading` to named outputs; `Pipeline` runs it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semipose.configs.load import InputError
from semipose.pipelines.stream_reader import StreamReader
from semipose.pipelines.views import BORDER_GREYS, MEAN_RGB, STD_RGB, AffinePolicy, Border, ViewSettings
from semipose.sharding.samples.crop import BOX_PADDING
from semipose.sharding.store.index import VERSION as INDEX_VERSION

try:
    import nvidia.dali
    from nvidia.dali import Pipeline as DaliPipeline
    from nvidia.dali import fn, math
    from nvidia.dali.types import Constant, DALIDataType, DALIImageType

    DALI_VERSION: str | None = nvidia.dali.__version__
except (
    ImportError
):  # DALI does not exist for macOS and Windows, where settings, scores and tables work without it.
    DALI_VERSION = None

VERSION = 2
"""Increased when a change of a graph would make an old checkpoint continue a different stream."""

Node = Any
"""An edge of a DALI graph (`nvidia.dali.pipeline.DataNode`)."""

RECORD = "record"
"""Name of the output with the bytes of `KEY.json`, whose samples differ in length."""

CROP = "crop"
"""Name of the output with decoded pixels, (H, W, 3) uint8, whose samples differ in size."""


@dataclass(frozen=True)
class Reading:
    """What to read, for which rank, and to which device."""

    tars: tuple[str, ...]
    """Paths, or addresses in an object store that DALI can read."""
    indices: tuple[Path, ...]
    batch_size: int
    seed: int
    """Seed of the order and of the views; it differs between streams and ranks."""
    shuffle_buffer: int = 0
    """Size of the shuffle buffer in samples; 0 keeps the order of the shards."""
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: int = 2
    prefetch: int = 2
    hw_decoder_load: float = 0.65
    """Share of each batch that the JPEG engines of a GPU decode."""
    stream_reader: StreamReader | None = None
    """Reads streams, which DALI cannot read."""
    crops: bool = False
    """Output decoded crops instead of views; on a CPU, `pipelines/warp.py` makes the views in less time."""

    def __post_init__(self) -> None:
        if DALI_VERSION is None:
            raise InputError(
                "NVIDIA DALI, which reads shards for training and evaluation, is not installed; it exists "
                "only for Linux: run this on Linux, where `pip install nvidia-dali-cuda130` installs it"
            )

    @property
    def dali_device(self) -> str:
        """DALI's word for the device."""
        return "gpu" if self.device.type == "cuda" else "cpu"


Graph = Callable[[Reading], dict[str, Node]]


def read(reading: Reading, ext: Sequence[str], dtypes: Sequence[Any]) -> list[Node]:
    """Read members of the samples of this rank's slice, endlessly, each as a 1-D tensor on the CPU."""
    if reading.stream_reader is not None:
        return _read_stream(reading.stream_reader, ext, dtypes)
    nodes = fn.readers.webdataset(
        paths=list(reading.tars),
        index_paths=[str(path) for path in reading.indices],
        ext=list(ext),
        dtypes=list(dtypes),
        missing_component_behavior="error",
        random_shuffle=reading.shuffle_buffer > 0,
        initial_fill=max(reading.shuffle_buffer, 1),
        shard_id=reading.rank,
        num_shards=reading.world_size,
        stick_to_shard=True,
        seed=reading.seed,
        name="shards",
    )
    return nodes if isinstance(nodes, list) else [nodes]


def _read_stream(stream_reader: StreamReader, ext: Sequence[str], dtypes: Sequence[Any]) -> list[Node]:
    """Read members from a stream reader, which uses no random numbers, so those of views stay the same."""
    nodes = fn.external_source(
        stream_reader.source(ext),
        num_outputs=len(ext),
        batch=True,
        batch_info=True,
        dtype=DALIDataType.UINT8,
        ndim=1,
    )
    pairs = zip(nodes, dtypes, strict=True)
    return [node if t == DALIDataType.UINT8 else fn.reinterpret(node, dtype=t) for node, t in pairs]


def read_order(num_samples: int, *, shuffle_buffer: int, seed: int) -> Iterator[int]:
    """Yield the indices of samples in the order of DALI's reader, endlessly.

    The reader itself gives the order: it reads as many one-byte samples, all the same byte, named by their
    index.
    """
    with TemporaryDirectory(prefix="semipose-") as folder:
        tar, index = Path(folder, "order.tar"), Path(folder, "order.idx")
        tar.write_bytes(bytes(512))
        lines = [f"{INDEX_VERSION} {num_samples}", *(f"byte 0 1 {index}" for index in range(num_samples))]
        index.write_text("\n".join(lines) + "\n")
        reading = Reading(
            tars=(str(tar),),
            indices=(index,),
            batch_size=min(num_samples, 1024),
            seed=seed,
            shuffle_buffer=shuffle_buffer,
            threads=1,
            prefetch=1,
        )
        byte = partial(read, ext=["byte"], dtypes=[DALIDataType.UINT8])
        pipeline = Pipeline(lambda reading: {"byte": byte(reading)[0]}, reading)
        named: Any = pipeline.dali.run()[0]  # both files are open now and can be removed
    while True:
        # tar:offset:name of each; read at once, because the next run overwrites them.
        yield from [int(sample.source_info().rpartition(":")[2]) for sample in named]
        named = pipeline.dali.run()[0]


def read_person(reading: Reading) -> tuple[Node, Node]:
    """Return a sample's encoded image and its pose record (4 + 3K float32)."""
    jpeg, pose = read(reading, ["jpg", "pose"], [DALIDataType.UINT8, DALIDataType.FLOAT])
    return jpeg, pose


def decode(jpeg: Node, reading: Reading) -> Node:
    """Decode to uint8 HWC, RGB, with the chroma filter of libjpeg, on the GPU too."""
    on_gpu = {"device": "mixed", "hw_decoder_load": reading.hw_decoder_load}
    where = on_gpu if reading.dali_device == "gpu" else {"device": "cpu"}
    return fn.decoders.image(jpeg, **where, output_type=DALIImageType.RGB, jpeg_fancy_upsampling=True)


def draw_scale(policy: AffinePolicy) -> Node | float:
    """Draw the scale factor of the box."""
    if policy.scale_sd == 0:
        return 1.0
    return math.clamp(1.0 + policy.scale_sd * fn.random.normal(), policy.scale_min, policy.scale_max)


def draw_angle_deg(policy: AffinePolicy) -> Node | float:
    """Draw the rotation, clockwise as seen (y points down)."""
    if policy.rotation_sd_deg == 0 or policy.rotation_probability == 0:
        return 0.0
    limit = policy.rotation_max_deg
    angle = math.clamp(policy.rotation_sd_deg * fn.random.normal(), -limit, limit)
    return angle * fn.random.coin_flip(probability=policy.rotation_probability)


def draw_flip(probability: float) -> Node:
    """Draw whether the view is mirrored: int32, 0 or 1."""
    return fn.random.coin_flip(probability=probability)


def draw_view(pose: Node, policy: AffinePolicy, size_hw: tuple[int, int]) -> tuple[Node, Node]:
    """Draw `view_from_stored` (2, 3) of a person, and whether it mirrors.

    Only the box, the first four numbers of the record, is used.
    """
    height, width = size_hw
    box_x, box_y, box_w, box_h = pose[0], pose[1], pose[2], pose[3]
    shown_width = BOX_PADDING * math.max(box_w, box_h * (width / height))
    scale = width / (shown_width * draw_scale(policy))
    flip = draw_flip(policy.flip_probability)
    mirror = 1.0 - 2.0 * flip
    matrix = fn.transforms.translation(offset=-fn.stack(box_x + 0.5 * box_w, box_y + 0.5 * box_h))
    matrix = fn.transforms.scale(matrix, scale=fn.stack(scale * mirror, scale))
    matrix = fn.transforms.rotation(matrix, angle=draw_angle_deg(policy))
    return fn.transforms.translation(matrix, offset=[width / 2, height / 2]), flip


def draw_strong(policy: AffinePolicy, size_hw: tuple[int, int]) -> Node:
    """Draw `strong_from_weak` (2, 3): a rigid rotation and a scale about the centre of the view."""
    height, width = size_hw
    zoom = 1.0 / draw_scale(policy)
    matrix = fn.transforms.translation(offset=[-width / 2, -height / 2])
    matrix = fn.transforms.scale(matrix, scale=fn.stack(zoom, zoom) if policy.scale_sd else [1.0, 1.0])
    matrix = fn.transforms.rotation(matrix, angle=draw_angle_deg(policy))
    return fn.transforms.translation(matrix, offset=[width / 2, height / 2])


def combine(b_from_c: Node, a_from_b: Node) -> Node:
    """Return `a_from_c`: the first argument is applied first."""
    return fn.transforms.combine(b_from_c, a_from_b)


def warp(image: Node, view_from_stored: Node, border: Border, size_hw: tuple[int, int] | Node) -> Node:
    """Sample a view once, bilinearly, from decoded pixels. size_hw: of all views, or a node of each one's."""
    last_row = Constant(np.array([[0, 0, 1]], np.float32), device="cpu")
    return fn.experimental.warp_perspective(
        image,
        matrix=fn.cat(view_from_stored, last_row, axis=0),
        size=list(size_hw) if isinstance(size_hw, tuple) else size_hw,
        inverse_map=False,
        pixel_origin="center",
        border_mode="constant",
        fill_value=list(BORDER_GREYS[border]),
    )


def normalise(view: Node) -> Node:
    """Normalise a uint8 view to float32, HWC, which is channels-last for torch once it is permuted."""
    return fn.crop_mirror_normalize(
        view,
        dtype=DALIDataType.FLOAT,
        output_layout="HWC",
        mean=[255 * mean for mean in MEAN_RGB],
        std=[255 * std for std in STD_RGB],
    )


def show(
    image: Node, shown: dict[str, tuple[Node, Border]], size_hw: tuple[int, int], reading: Reading
) -> dict[str, Node]:
    """Return the views of an image by name, each warped by its matrix from stored pixels, or its crop.

    Random outputs must come before these, because DALI seeds its operators in the order in which outputs need
    them.
    """
    if reading.crops:
        return {CROP: image}
    return {
        name: normalise(warp(image, view_from_stored, border, size_hw))
        for name, (view_from_stored, border) in shown.items()
    }


def hand_over(outputs: dict[str, Node], reading: Reading) -> dict[str, Node]:
    """Move outputs that are still on the CPU to the device."""
    if reading.dali_device == "cpu":
        return outputs
    return {name: node if name == RECORD else node.gpu() for name, node in outputs.items()}


def labelled_graph(reading: Reading, *, views: ViewSettings, num_keypoints: int) -> dict[str, Node]:
    """Images with their keypoints in the view: image, points_xy, v, flipped, view_from_stored."""
    jpeg, pose = read_person(reading)
    view_from_stored, flip = draw_view(pose, views.labelled, views.size_hw)
    keypoints = fn.reshape(pose[4:], shape=[num_keypoints, 3])
    shown = {"image": (view_from_stored, views.labelled.border)}
    outputs = {
        "points_xy": fn.coord_transform(keypoints[:, :2], MT=view_from_stored),
        "v": keypoints[:, 2],
        "flipped": flip,
        "view_from_stored": view_from_stored,
        **show(decode(jpeg, reading), shown, views.size_hw, reading),
    }
    return hand_over(outputs, reading)


def unlabelled_graph(reading: Reading, *, views: ViewSettings) -> dict[str, Node]:
    """Two views of each image: weak, strong, strong_from_weak and both `from_stored`. Reads no keypoint."""
    jpeg, pose = read_person(reading)
    weak_from_stored, _ = draw_view(pose, views.weak, views.size_hw)
    strong_from_weak = draw_strong(views.strong, views.size_hw)
    strong_from_stored = combine(weak_from_stored, strong_from_weak)
    shown = {
        "weak": (weak_from_stored, views.weak.border),
        "strong": (strong_from_stored, views.strong.border),
    }
    outputs = {
        "weak_from_stored": weak_from_stored,
        "strong_from_weak": strong_from_weak,
        "strong_from_stored": strong_from_stored,
        **show(decode(jpeg, reading), shown, views.size_hw, reading),
    }
    return hand_over(outputs, reading)


def eval_graph(reading: Reading, *, views: ViewSettings) -> dict[str, Node]:
    """The plain view of each image: image, view_from_stored, record."""
    jpeg, pose, record = read(
        reading, ["jpg", "pose", "json"], [DALIDataType.UINT8, DALIDataType.FLOAT, DALIDataType.UINT8]
    )
    view_from_stored, _ = draw_view(pose, views.plain, views.size_hw)
    shown = {"image": (view_from_stored, views.plain.border)}
    views_of_image = show(decode(jpeg, reading), shown, views.size_hw, reading)
    return hand_over({**views_of_image, "view_from_stored": view_from_stored, RECORD: record}, reading)


def survey_graph(reading: Reading, *, num_keypoints: int | None) -> dict[str, Node]:
    """What a cache needs before it decodes: shape_hwc, box_xywh, and keypoints (K, 3) if they are read."""
    jpeg, pose = read_person(reading)
    outputs = {"shape_hwc": fn.peek_image_shape(jpeg), "box_xywh": pose[:4]}
    if num_keypoints is not None:
        outputs["keypoints"] = fn.reshape(pose[4:], shape=[num_keypoints, 3])
    return outputs


def crop_graph(reading: Reading) -> dict[str, Node]:
    """The stored pixels of each image; pose only because a stream reader reads it and must output it."""
    jpeg, pose = read_person(reading)
    return {CROP: decode(jpeg, reading), "pose": pose}


class Pipeline:
    """A running graph: endless batches of torch tensors that share DALI's memory."""

    def __init__(self, graph: Graph, reading: Reading, checkpoint: bytes | None = None) -> None:
        """Build `graph`, and continue from `checkpoint`, which an equal Pipeline returned."""
        on_gpu = reading.dali_device == "gpu"
        self.dali = DaliPipeline(
            batch_size=reading.batch_size,
            num_threads=reading.threads,
            device_id=(reading.device.index or 0) if on_gpu else None,
            seed=reading.seed,
            prefetch_queue_depth=reading.prefetch,
            enable_checkpointing=True,
            checkpoint=checkpoint,
        )
        self.device = reading.device
        with self.dali:
            outputs = graph(reading)
            self.dali.set_outputs(*outputs.values())
        self.names = list(outputs)
        self.dali.build()

    def next(self) -> dict[str, Any]:
        """Return the next batch by name: tensors (N, ...), `record` as a list of bytes, `crop` of arrays.

        Raises RuntimeError if a sample cannot be read or decoded; the pipeline cannot be used after that.
        """
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        lists = self.dali.run(stream)
        return {name: self._to_torch(name, listed) for name, listed in zip(self.names, lists, strict=True)}

    def checkpoint(self) -> bytes:
        """Return the state after the last returned batch, however many are prefetched."""
        return bytes(self.dali.checkpoint())

    @staticmethod
    def _to_torch(name: str, listed: Any) -> Tensor | list[bytes] | list[np.ndarray]:
        if name == RECORD:
            return [np.asarray(listed.at(i)).tobytes() for i in range(len(listed))]
        if name == CROP:
            return [np.asarray(listed.at(i)) for i in range(len(listed))]
        return torch.from_dlpack(listed.as_tensor())
