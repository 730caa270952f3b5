"""What the tests need of Kubernetes: a cluster, the images of this tree, and the services."""

from ..docker.conftest import engine, images
from .cluster import cluster
from .services import services

__all__ = ["cluster", "engine", "images", "services"]  # fixtures
