"""Views from kept crops: by `pipelines/warp.py` on the host, by an equivalent kernel on a GPU."""
