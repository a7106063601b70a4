"""Finished runs and queues of runs: read, compare, draw, work off."""
