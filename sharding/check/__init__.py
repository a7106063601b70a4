"""Checks: a look at every photo before a build, and at every byte after it."""
