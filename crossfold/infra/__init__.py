"""Programs and services on the user's machine: Docker images, Compose, kind, kubectl."""
