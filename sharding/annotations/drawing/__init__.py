"""Drawn people: the data set that needs no download."""
