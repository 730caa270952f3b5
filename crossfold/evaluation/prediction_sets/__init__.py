"""Answer an image with all labels that are plausible for it, and say if it resembles no other."""
