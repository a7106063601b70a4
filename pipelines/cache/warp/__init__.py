"""Views from kept crops, on the host by `pipelines/warp.py`, on a GPU by a kernel of the same definition."""
