"""What a run says of itself: its report, card, warnings and pictures."""
