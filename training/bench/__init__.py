"""How fast shards are cut, views are made and steps are taken, beside what others do for the same work."""
