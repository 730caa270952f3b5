"""What the steps of a local run start as: processes or containers."""
