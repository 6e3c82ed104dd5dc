"""Tables and figures in the papers' layout, ours beside the published."""
