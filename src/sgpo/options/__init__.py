"""What the commands with a configuration take: groups of options, early refusals, help."""
