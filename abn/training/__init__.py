"""How a network is fitted: augmentation, the step, the loop, and going on after a kill."""
