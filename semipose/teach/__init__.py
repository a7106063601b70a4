"""semipose teach: a model labels people who are in shards, for a run that learns from it."""
