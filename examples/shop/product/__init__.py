"""What is for sale, at which price."""
