"""The shop in examples/shop."""
