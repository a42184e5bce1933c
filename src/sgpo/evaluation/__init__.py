"""Scores without strategies: avg@k."""
