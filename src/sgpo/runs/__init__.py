"""The folder of a run: checkpoints, resuming, Ctrl-C."""
