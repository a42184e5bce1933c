"""Completions of the policy in training or of a checkpoint: with transformers or vLLM."""
