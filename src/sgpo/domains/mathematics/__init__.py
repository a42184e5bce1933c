"""Mathematics: numbers and answers that a strategy must not tell."""
