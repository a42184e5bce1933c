"""Strategy-Guided Policy Optimization (arXiv:2606.24064)."""
