"""The settings of the diagnosis."""

from typing import Annotated

from pydantic import Field

from crossfold.resource_settings import Section

# Not strict, because kfp hands integers in a dictionary to a step as floats.
Repetitions = Annotated[int, Field(strict=False, ge=0)]


class DiagnosisSettings(Section):
    """What `diagnose_data` computes about the images and the scores. It changes no model."""

    label_errors: bool = Field(
        default=True,
        description="Rank images whose label may be wrong and images unlike their class, and name "
        "classes that are confused. Without the setting: `true`.",
    )
    shortcuts: bool = Field(
        default=True,
        description="Test whether file size, dimensions, camera, mean colour or border alone tell "
        "the classes apart. Without the setting: `true`.",
    )
    repeats: Annotated[Repetitions, Field(le=100)] = Field(
        default=10,
        description="Repetitions of cross-validation of the heads, each with other folds; 0: none. "
        "Without the setting: 10.",
    )
    nested: bool = Field(
        default=True,
        description="Cross-validate the choice among the heads, too. Without the setting: `true`.",
    )
    permutations: Annotated[Repetitions, Field(le=100_000)] = Field(
        default=1000,
        description="Permutations of the labels that test whether there is any signal; 0: none. "
        "Without the setting: 1000.",
    )
    learning_curve: bool = Field(
        default=True,
        description="Cross-validate a head on shares of the images, and estimate what more images "
        "are worth. Without the setting: `true`.",
    )


DIAGNOSIS = DiagnosisSettings()  # as without the section in params.yaml
