"""The settings of each step's cores, memory and disk."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def not_a_boolean(value: Any) -> Any:
    """Refuse a boolean, which Python takes for a number."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not allowed: input should be a number")
    return value


# Not strict, because YAML reads 1e-3 as a string; only 1.0e-3 is a number.
Number = Annotated[float, Field(strict=False), BeforeValidator(not_a_boolean)]


class Section(BaseModel):
    """A section of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


_UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _a_quantity(value: Any) -> Any:
    text = str(value)
    number, unit = text[:-2], text[-2:]
    if unit not in _UNITS or not number.isdecimal() or not int(number):
        raise ValueError(f"{value!r} is not allowed: write it as 512Mi, 4Gi or 1Ti")
    return text


Quantity = Annotated[str, BeforeValidator(_a_quantity)]


def num_bytes(quantity: Quantity) -> int:
    """Count the bytes of a quantity such as 4Gi."""
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]


class StepResources(Section):
    """Resources of a step's container: reserved for it, and the most that it can take."""

    cpu: Annotated[Number, Field(ge=0.001)] | None = Field(
        default=None, description="Processor cores, such as 0.5 or 2."
    )
    memory: Quantity | None = Field(default=None, description="Memory, such as 4Gi.")
    storage: Quantity | None = Field(
        default=None,
        description="Disk for its input and output files, such as 20Gi. Only a cluster reserves "
        "and limits it.",
    )


_OF_STEP: Any = Field(default=StepResources(), description="Any of `cpu`, `memory` and `storage`.")


class ResourceSettings(Section):
    """Cores, memory and disk of each step's container.

    Each entry has any of `cpu`, `memory` and `storage`, as in `train_fold: {cpu: 2, memory: 4Gi,
    storage: 10Gi}`. What is given is reserved for the step, and is the most that it can take.
    Without an entry, a step has what [Steps](steps.md) lists. Results do not depend on it, and a
    change repeats no step.
    """

    fetch_data: StepResources = _OF_STEP
    fetch_weights: StepResources = _OF_STEP
    extract_features: StepResources = _OF_STEP
    join_features: StepResources = _OF_STEP
    train_fold: StepResources = _OF_STEP
    aggregate_cv: StepResources = _OF_STEP
    diagnose_data: StepResources = _OF_STEP
    train_final: StepResources = _OF_STEP
    evaluate_test: StepResources = _OF_STEP
    register_model: StepResources = _OF_STEP

    def of(self, step: str) -> StepResources:
        """Look up a step's entry by its name."""
        found: StepResources = getattr(self, step)
        return found


NO_RESOURCES = ResourceSettings()  # every step keeps what it has by default
