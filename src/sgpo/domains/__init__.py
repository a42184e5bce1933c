"""What a field of problems brings: what a strategy must not tell of its answers."""
