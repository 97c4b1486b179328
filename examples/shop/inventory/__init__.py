"""What is on the shelf, and for whom it is held."""
