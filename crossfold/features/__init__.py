"""The file of features: what the frozen part of each backbone computes of the images."""
