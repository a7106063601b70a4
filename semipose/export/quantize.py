"""Static INT8: convolutions with integer weights and activations, calibrated on views of people."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from semipose.export.graph import INPUT, require

CALIBRATION_BATCH = 8
FIRST_IN_FLOAT = 2
"""The first convolutions, which see the photo, stay in float32: they have few weights, and rounding there
costs several AP."""


def quantize(source: Path, target: Path, views: np.ndarray) -> None:
    """Write the ONNX file `source` as `target`, its convolutions in INT8 (QDQ, 7-bit weights per channel).

    Normalisation, the first convolutions and decoding stay in float32. views: (N, H, W, 3) uint8, by which
    the ranges of activations are found.
    """
    quantization, onnx = require("onnxruntime.quantization", "onnx")

    class Views(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self.batches = iter(
                views[first : first + CALIBRATION_BATCH] for first in range(0, len(views), CALIBRATION_BATCH)
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quantization.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        quantization.quantize_static(
            str(prepared),
            str(target),
            Views(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            # Processors without VNNI add pairs of products in 16 bits, where weights of 8 bits overflow.
            reduce_range=True,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[node.name for node in nodes if node.op_type == "Conv"][:FIRST_IN_FLOAT],
        )
