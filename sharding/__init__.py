"""Annotations and images to tar shards and their manifest."""
