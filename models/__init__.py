"""Images to heatmaps, heatmaps to keypoints."""
