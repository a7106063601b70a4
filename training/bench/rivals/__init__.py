"""What others use for the same work, each as fast as its design allows."""
