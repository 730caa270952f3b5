"""MLflow runs: open, continue, nest and end them, and log to them."""
