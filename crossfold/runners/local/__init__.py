"""Kubeflow's local runner: each step in a process or in a container."""
