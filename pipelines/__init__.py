"""Shards to batches of views on the device."""
