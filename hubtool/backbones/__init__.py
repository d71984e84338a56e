"""Floor 3: models and their parts, heads, freezing, the frozen frontier, export. Never touches the network."""
