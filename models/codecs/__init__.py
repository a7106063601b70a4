"""Codecs: what the maps of a network mean, from keypoints to maps and back."""
