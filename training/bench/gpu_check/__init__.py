"""The parts of `python training/gpu_check.py`."""

import time

BEGAN = time.monotonic()
"""When a check began: before torch is imported, which takes long on a machine that has not read it yet."""
