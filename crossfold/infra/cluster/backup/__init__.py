"""Back up and restore the stores of a cluster."""
