import pytest
import torch

from crossfold.architectures import ARCHITECTURES
from crossfold.errors import UserError
from crossfold.network import backbone
from tests.unit.networks import SMALL, state


def test_an_unknown_architecture_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"model\.architecture.*'resnet19'.*resnet18"):
        backbone.build_network("resnet19", 3, seed=0)


def test_the_architectures_are_torchvisions_classification_networks() -> None:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    assert sorted(ARCHITECTURES) == sorted(known)


def test_initial_weights_follow_from_the_seed() -> None:
    first, same, other = (state(backbone.build_network(SMALL, 3, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["classifier.1.weight"], other["classifier.1.weight"])
