"""Commands that measure or make what the project ships: ``python -m benchmarks`` lists them."""
