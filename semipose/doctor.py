"""semipose doctor: what this machine can do, and what is missing for more.

The exit code is 0 if predicting works here, and 1 if it does not.
"""

import importlib
import io
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import semipose
from semipose.configs.errors import one_line

GIB = 2**30
OPTIONAL = (
    ("PyAV", "videos", "video", "av"),
    ("supervision", "to_supervision()", "supervision", "supervision"),
    ("ONNX runtime", "predicting with pose.onnx", "onnx", "onnxruntime"),
    ("ONNX", "semipose export", "export", "onnx", "onnxscript", "onnxruntime"),
    ("transformers", "RT-DETR, ViTPose", "rtdetr", "transformers"),
    ("rfdetr", "RF-DETR", "rfdetr", "rfdetr"),
    ("aiohttp", "photos of web servers", "http", "aiohttp"),
    ("s3fs", "photos of S3", "s3", "s3fs"),
    ("gcsfs", "photos of Google Cloud", "gs", "gcsfs"),
    ("Dask", "executor=dask://", "cluster", "distributed"),
)
"""What is installed by an extra: its name, what needs it, the extra, and the modules to import."""


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    what: str
    needed_for: str
    look: Callable[[], str]
    """Says what is there, and raises an exception if it is missing or does not work."""
    cure: str = ""
    is_essential: bool = False


def checks() -> list[Check]:
    """Everything that is looked at, what predicting needs first."""
    linux = "exists for Linux alone; predicting, sharding and tables work without it"
    return [
        Check("system", "", _system),
        Check("disk", "", _disk),
        Check("torch", "everything", _torch, "pip install semipose", is_essential=True),
        Check("device", "everything", _device, "see device=cpu", is_essential=True),
        Check("JPEG decoder", "everything", _decoder, "pip install --force-reinstall simplejpeg", True),
        Check("a network", "everything", _network, "pip install --upgrade torch timm", is_essential=True),
        Check("DALI", "training, evaluation", lambda: _version("nvidia.dali"), linux),
        Check("Accelerate", "training", lambda: _version("accelerate"), "pip install accelerate"),
        Check("webdataset", "training", lambda: _version("webdataset"), "pip install webdataset"),
        *(
            Check(name, needed_for, partial(_versions, *modules), f"pip install 'semipose[{extra}]'")
            for name, needed_for, extra, *modules in OPTIONAL
        ),
        Check("detector", "people.name=detector", _detector, "its weights are downloaded when first used"),
    ]


def main(argv: list[str] | None = None) -> None:
    """Print the table; the words of the command line are not used, apart from --help."""
    if argv:
        sys.stdout.write("usage: semipose doctor\n\n" + (__doc__ or ""))
        raise SystemExit(0 if {"-h", "--help"} & set(argv) else 2)
    table = Table(title=f"semipose {semipose.__version__}")
    for name in ("", "needed for", "state", "what is there, or what to do"):
        table.add_column(name)
    is_well = True
    for check in checks():
        try:
            table.add_row(check.what, check.needed_for, "[green]ok[/green]", escape(check.look()))
        except Exception as error:  # a broken installation raises anything
            reason = one_line(error)
            state = "[red]missing[/red]" if check.is_essential else "[yellow]absent[/yellow]"
            table.add_row(check.what, check.needed_for, state, escape(f"{check.cure} ({reason})"))
            is_well &= not check.is_essential
    Console().print(table)
    if not is_well:
        raise SystemExit(1)


def _versions(*modules: str) -> str:
    return ", ".join(map(_version, modules))


def _version(module: str) -> str:
    found: Any = importlib.import_module(module)
    return str(getattr(found, "__version__", "installed"))


def _system() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} "
        f"cores, {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB of memory free"
    )


def _disk() -> str:
    usage = shutil.disk_usage(Path.cwd())
    return f"{usage.free / GIB:.0f} of {usage.total / GIB:.0f} GiB free in the current folder"


def _torch() -> str:
    import torch

    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def _device() -> str:
    import torch

    from semipose.predict.model import choose_device

    device = choose_device()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
    return "the CPU; no GPU was found" if device.type == "cpu" else "Apple's GPU (mps)"


def _decoder() -> str:
    import numpy as np
    from PIL import Image

    from semipose.sharding.samples.decode import decode_photo

    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 24, 3), 200, np.uint8)).save(buffer, "JPEG")
    pixels = decode_photo(buffer.getvalue(), size_wh=None, where="the check").pixels
    if pixels.shape != (16, 24, 3) or abs(int(pixels.mean()) - 200) > 2:
        raise RuntimeError(f"a grey JPEG is decoded to {pixels.shape}, mean {pixels.mean():.0f}")
    return "decodes"


def _network() -> str:
    import torch

    from semipose.models.backbones.light import LightSettings
    from semipose.models.heads.pyramid import PyramidSettings
    from semipose.models.net import NetSettings, build_net

    net = build_net(NetSettings(backbone=LightSettings(), head=PyramidSettings()), 17).eval()
    with torch.inference_mode():
        heatmaps = net(torch.zeros(1, 3, 64, 48))
    if heatmaps.shape != (1, 17, 16, 12) or not heatmaps.isfinite().all():
        raise RuntimeError(f"it gives {tuple(heatmaps.shape)}")
    return "runs"


def _detector() -> str:
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    weights = sorted(path.name for path in folder.glob("*rcnn*.pth")) if folder.is_dir() else []
    if not weights:
        raise FileNotFoundError(f"no weights of a detector in {folder}")
    return f"{', '.join(weights)} in {folder}"
