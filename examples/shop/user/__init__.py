"""Who someone is, what they may do."""
