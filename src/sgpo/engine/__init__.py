"""From rows to gradients, usable without the trainer."""
