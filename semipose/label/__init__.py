"""What to label next, and labels out to labelling tools and back."""
