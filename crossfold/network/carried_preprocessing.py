"""Find the preprocessing that a network carries, unless params.yaml gives another."""

from dataclasses import replace

from crossfold.architectures import timm_name
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.settings import PreprocessingSettings


def find_preprocessing(architecture: str, changes: PreprocessingSettings) -> Preprocessing:
    """Find the preprocessing of a network's published weights, and apply changes to it.

    Raises:
        UserError: neither library has a network of that name.
    """
    return replace(_published(architecture), **changes.given())


def _published(architecture: str) -> Preprocessing:
    if name := timm_name(architecture):
        from . import timm_networks

        timm_networks.require(name)
        return timm_networks.preprocessing(name)
    import torchvision  # not above: `backbone` imports it faster

    transforms = torchvision.models.get_model_weights(architecture).DEFAULT.transforms()
    (image_size,) = transforms.crop_size
    return Preprocessing(image_size, tuple(transforms.mean), tuple(transforms.std))
