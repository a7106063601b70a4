"""Static INT8: convolutions with integer weights and activations, calibrated on views of people."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from semipose.export.graph import INPUT, require

CALIBRATION_BATCH = 8
FIRST_IN_FLOAT = 2
"""Convolutions with fewer others before them stay in float32, as they see the photo: they have few weights,
and rounding there costs several AP."""
CLIPPING = ("Clip", "Relu")
"""Activations that only cut values off, which the range of the integers does as well: onnxruntime computes
them as part of the convolution, and no integers are spent on values beyond."""


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
        quantization.quantize_static(
            str(prepared),
            str(target),
            Views(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            # onnxruntime 1.32 turns some signed activations into unsigned ones on x86, and then computes
            # convolutions that have both, two fifths of those of EfficientNet-Lite0, in float32.
            activation_type=quantization.QuantType.QUInt8,
            # Processors without VNNI add pairs of products in 16 bits, where weights of 8 bits overflow.
            reduce_range=True,
            op_types_to_quantize=["Conv", *CLIPPING],
            nodes_to_quantize=in_integers(onnx.load(prepared).graph.node),
        )


def in_integers(nodes: Iterable[Any]) -> list[str]:
    """The names of the ONNX nodes to quantise: later convolutions, and what clips their answers.

    nodes: in the order in which they are computed.
    """
    num_before: dict[str, int] = {}  # tensor -> convolutions on the longest way to it
    convolved: set[str] = set()
    names = []
    for node in nodes:
        count = max((num_before.get(name, 0) for name in node.input), default=0)
        if node.op_type == "Conv" and count >= FIRST_IN_FLOAT:
            convolved.update(node.output)
            names.append(node.name)
        elif node.op_type in CLIPPING and node.input[0] in convolved:
            names.append(node.name)
        num_before |= dict.fromkeys(node.output, count + (node.op_type == "Conv"))
    return names
