"""Run each step in a process or a container, with Kubeflow's local runner."""
