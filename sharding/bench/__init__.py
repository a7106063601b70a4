"""How fast photos become shards, against a plain loop that does the same crops, and in how much memory."""
