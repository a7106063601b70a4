"""How fast a training step is, what of it is spent on data, and in how much memory."""
