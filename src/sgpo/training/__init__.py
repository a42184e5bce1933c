"""Sampling, verifying, assembling and optimising."""
