"""Adaptive keypoint masking: how many, which, and the device op."""
