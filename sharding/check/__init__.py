"""Checks every photo before a build, and every byte after it."""
