"""Floor 1: what everything stands on. Standard library only."""
