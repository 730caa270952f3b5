import torch

from crossfold.network import normalization
from tests.unit.networks import IMAGENET, pixels


def test_pixels_are_normalized_as_torchvision_does() -> None:
    from torchvision.transforms import functional

    images = pixels(2, 5)
    wanted = torch.stack(
        [
            functional.normalize(
                functional.to_tensor(image), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
            )
            for image in images
        ]
    )
    found = normalization.normalize(torch.from_numpy(images), IMAGENET)
    torch.testing.assert_close(found, wanted)
    assert found.is_contiguous()
