"""Faster batch norms and convolutions, used where measurements show a gain."""
