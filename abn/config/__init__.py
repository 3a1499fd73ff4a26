"""params.yaml, typed and checked once, and the messages about what is wrong with it."""
