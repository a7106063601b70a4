"""The parts of `python training/gpu_check.py`."""
