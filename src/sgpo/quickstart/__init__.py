"""`sgpo quickstart`: the whole method on the mini-world, in minutes."""
