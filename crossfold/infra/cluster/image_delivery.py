"""Deliver the images to a cluster: load them with kind, or push them to a registry."""

import os
import shutil
import time

from crossfold.errors import UserError
from crossfold.infra import shell
from crossfold.infra.image_build import build_images
from crossfold.infra.image_tags import ROLES, image_name, registry_name
from crossfold.infra.messages import Say

from .kind import kind_name
from .kubectl import Cluster


def bring_images(cluster: Cluster, registry: str | None, say: Say) -> None:
    """Build outdated images, then push them to a registry or load them into a kind cluster.

    Do nothing without a registry on a cluster other than kind, which must get its images elsewhere.

    Raises:
        UserError: an image cannot be built, pushed or loaded.
    """
    kind = kind_name(cluster)
    if registry is None and kind is None:
        return
    build_images(None, None, say)
    for role in ROLES:
        if registry:
            remote = registry_name(role, registry)
            shell.run_visibly("docker", "tag", image_name(role), remote)
            shell.run_visibly("docker", "push", "--quiet", remote)
        elif kind:
            load_image(kind, image_name(role), say)


def load_image(kind: str, image: str, say: Say) -> None:
    """Copy a Docker image to those nodes of a kind cluster that lack it.

    Raises:
        UserError: kind cannot load it.
    """
    size = int(shell.output("docker", "image", "inspect", "--format={{.Size}}", image))
    say(f"loading {image}, {size / 1e9:.1f} GB")
    start = time.monotonic()
    try:
        shell.run_visibly("kind", "load", "docker-image", f"--name={kind}", image)
    except UserError:
        folder = os.environ.get("TMPDIR") or "/tmp"
        if (free := shutil.disk_usage(folder).free) > size:
            raise
        raise UserError(
            f"kind needs {size / 1e9:.1f} GB in {folder} to load {image}, but only "
            f"{free / 1e9:.1f} GB are free: free space, or set TMPDIR to a folder on another disk"
        ) from None
    say(f"loaded {image} in {time.monotonic() - start:.0f} s")
