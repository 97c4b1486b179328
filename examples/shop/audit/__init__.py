"""What happened to each order, once each."""
