"""Floor 2: what is written down and what it means. Typed values, versioned files, no torch, no network."""
