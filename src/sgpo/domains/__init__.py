"""What a field of problems brings: when an answer is correct, and what a strategy must not tell."""
