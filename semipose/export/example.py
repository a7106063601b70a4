"""Keypoints of one person: python example.py PHOTO X Y WIDTH HEIGHT (the box in pixels of the upright photo).

Needs onnxruntime, numpy and Pillow alone. `pose.json` beside the network says what its answers mean.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) != 6:
    raise SystemExit("usage: python example.py PHOTO X Y WIDTH HEIGHT")
folder = Path(__file__).resolve().parent
session = onnxruntime.InferenceSession(str(folder / "pose.onnx"), providers=["CPUExecutionProvider"])
pose = json.loads((folder / "pose.json").read_text())
photo = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")  # upright, as people see it
x, y, box_w, box_h = map(float, sys.argv[2:6])
height, width = pose["size_hw"]

# The box, widened to the shape of the view and enlarged, fills it: a pixel of it is `scale` of the photo.
scale = pose["box_padding"] * max(box_w, box_h * width / height) / width
corner = np.array([x + box_w / 2, y + box_h / 2]) + 0.5 - scale * np.array([width + 1, height + 1]) / 2
opposite = corner + scale * np.array([width, height])
start, size = np.floor(corner).astype(int), (np.ceil(opposite) - np.floor(corner)).astype(int)
region = Image.new("RGB", tuple(size.tolist()), tuple(pose["border_rgb"]))
region.paste(photo, tuple((-start).tolist()))
view = region.resize((width, height), Image.Resampling.BILINEAR, (*(corner - start), *(opposite - start)))

points, peaks = session.run(None, {"image": np.asarray(view)[None]})
in_photo = scale * (points[0] + 0.5) + corner - 0.5
for name, (px, py), peak in zip(pose["keypoints"], in_photo, peaks[0], strict=True):
    print(f"{name} {px:.1f} {py:.1f} {peak:.2f}")
