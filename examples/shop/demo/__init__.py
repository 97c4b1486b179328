"""The shop put on stage: started, filled with shoppers, disturbed, settled, and its books checked."""
