"""The conformance battery over every Python breaker: `python -m benchmarks.compare` prints the table of the docs."""
