"""DVC's experiments, read from git."""
