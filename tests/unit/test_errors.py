import pytest

from crossfold.errors import suggestion


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("layer5", ["conv1", "layer4", "fc"], "did you mean layer4?"),
        ("ResNet18.PTH", ["resnet18.pth", "vit.pth"], "did you mean resnet18.pth?"),
        ("x", ["one", "two"], "there is one, two."),
        ("x", ["one", "two", "three", "four", "five", "six", "seven"], "five and 2 more."),
        ("x", [], "there is none."),
    ],
)
def test_the_nearest_names_are_suggested_or_some_of_all(
    name: str, known: list[str], said: str
) -> None:
    assert suggestion(name, known).endswith(said)
