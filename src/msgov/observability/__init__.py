"""What a process tells of itself: logs, metrics and traces, set up by one call and made of gates."""
