"""Run the compiled pipeline: on this machine, in Docker, on Kubeflow."""
