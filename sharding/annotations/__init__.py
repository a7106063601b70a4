"""Annotations: formats, keypoint sets, photos, and what is wrong with them."""
