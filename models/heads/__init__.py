"""Feature maps to heatmaps."""
