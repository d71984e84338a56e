"""Floor 3: the exact and cached training loop, its checkpoints and its numerics."""
