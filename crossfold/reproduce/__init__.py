"""Train a registered version again and compare the result."""
