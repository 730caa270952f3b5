"""Write the samples that a fresh project can train on: images and weights."""
