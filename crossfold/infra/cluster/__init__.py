"""Run Kubeflow Pipelines and the services on a kind cluster or on the user's cluster."""
