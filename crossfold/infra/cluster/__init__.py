"""Kubeflow Pipelines and the services on Kubernetes: a kind cluster, or one of the user's."""
