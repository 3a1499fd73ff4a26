"""The five stages of the DVC graph, one script each."""
