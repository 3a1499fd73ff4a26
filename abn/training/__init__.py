"""Training: augmentation, the step, the loop, several processes, resuming after a kill."""
