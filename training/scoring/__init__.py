"""Metrics on keypoints in source pixels."""
