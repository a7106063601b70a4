"""Keypoints of photos, films and cameras by a trained network."""
