"""Where the images come from: rendered, downloaded or your own, and how they are packed."""
