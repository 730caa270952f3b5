"""Kubeflow Pipelines on a cluster: submit, watch, schedule."""
