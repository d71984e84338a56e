"""Floor 5: parse, run one job, print."""
