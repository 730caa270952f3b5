"""Fetch published pretrained weights."""

from pathlib import Path

import safetensors.torch
from torchvision.models import ResNet18_Weights

from crossfold.errors import UserError
from crossfold.step.files import replaced_whole


def fetch_imagenet_weights(folder: Path) -> Path:
    """Fetch torchvision's ResNet18 ImageNet weights, through its loader, into `folder`.

    Raises:
        UserError: the weights cannot be fetched, or the disk is full.
    """
    published = ResNet18_Weights.IMAGENET1K_V1
    path = folder / "resnet18-imagenet.safetensors"
    try:
        state = published.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights cannot be fetched from {published.url}: {error}. Without internet "
            f"access, download that file elsewhere, put it under {folder}/ and set params.yaml "
            "model.weights to its name"
        ) from None
    folder.mkdir(exist_ok=True)
    with replaced_whole(path) as part:
        safetensors.torch.save_file(state, part)
    return path
