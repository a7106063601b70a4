"""One file per annotation format, all ending in the same record."""
