"""Floor 4: one verb, one file, one function of the Python API, returning a records value."""
