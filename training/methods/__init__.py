"""One readable training step per published method."""
