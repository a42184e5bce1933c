"""The methods in other people's trainers."""
