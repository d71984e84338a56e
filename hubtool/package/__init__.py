"""Floor 3: from a run to a directory ready to push: build, card, check."""
