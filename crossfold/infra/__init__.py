"""Docker, Compose, kind and kubectl on the user's machine: images, services, the cluster."""
