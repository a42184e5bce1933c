"""Talking to a strong model: a client of OpenAI-compatible servers with a journal, pacing and a cost limit."""
