"""Static INT8: convolutions with integer weights and activations, calibrated on views of people."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from semipose.export.graph import INPUT, require

CALIBRATION_BATCH = 8


def quantize(source: Path, target: Path, views: np.ndarray) -> None:
    """Write the ONNX file `source` as `target`, its convolutions in INT8 (QDQ, weights per channel).

    Normalisation and decoding stay in float32. views: (N, H, W, 3) uint8, by which the ranges of activations
    are found.
    """
    (quantization,) = require("onnxruntime.quantization")

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
            op_types_to_quantize=["Conv"],
        )
