"""Floor 3: pictures and labels: scan, decode, split, transform, load."""
