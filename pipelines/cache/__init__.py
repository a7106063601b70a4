"""Decoded crops that are kept, and views warped from them."""
