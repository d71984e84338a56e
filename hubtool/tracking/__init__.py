"""Floor 3: the journal of a run, the sinks it feeds, and plots."""
