"""Answers taken apart token by token: `sgpo inspect`."""
