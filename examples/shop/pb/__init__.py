"""What the protos say, generated: see proto/generate.py."""
