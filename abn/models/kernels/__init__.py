"""Faster batch norms and convolutions, each where it was measured to pay."""
