"""Compare candidates by their out-of-fold predictions, and choose one."""
