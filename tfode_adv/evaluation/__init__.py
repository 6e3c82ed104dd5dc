"""From a grid of configurations to one record an image, in files that survive a kill."""
