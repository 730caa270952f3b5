"""Code around a step's work in its container: record, MLflow run, progress, threads."""
