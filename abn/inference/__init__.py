"""A trained network at work: what needs no data set, no DVC and no tracking."""
