"""How fast people become views: stage by stage, and against a classic loader of the same work."""
