"""Samples: what of a photo a shard stores for a person, and how it comes to be."""
