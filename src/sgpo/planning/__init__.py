"""What a recipe needs before anything is spent: memory, tokens, requests, hours and cost, from stated formulas."""
