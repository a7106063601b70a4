"""Semi-supervised 2D human pose estimation: few labels, many unlabelled images, one accurate network."""
