"""params.yaml as frozen, checked, typed settings."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from crossfold.architectures import ARCHITECTURES
from crossfold.errors import UserError, suggestion

PIXELS = "pixels"
HEAD = "head"


def _not_a_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not allowed: input should be a number")
    return value


def _known_architecture(name: str) -> str:
    if name not in ARCHITECTURES:
        raise ValueError(
            f"torchvision has no classification network {name!r}; {suggestion(name, ARCHITECTURES)}"
        )
    return name


def _below_models(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or not path.name:
        raise ValueError(
            f"{name!r} is not allowed: give a file's path below models/, such as "
            "sub/weights.safetensors"
        )
    return name


# Not strict: to YAML, 1e-3 is a text and only 1.0e-3 is a number.
Number = Annotated[float, Field(strict=False), BeforeValidator(_not_a_truth)]
Fraction = Annotated[Number, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
# MLflow's addresses and searches give / @ : and quotes a meaning.
Name = Annotated[str, Field(pattern=r"^[^/@:'\"]+$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSettings(_Section):
    """Where the images come from and how they are split; `image_size` in pixels."""

    remote: str
    image_size: Annotated[int, Field(ge=8, le=2048)]
    test_fraction: Fraction
    num_folds: Annotated[int, Field(ge=2, le=100)]
    seed: Seed
    max_skipped_fraction: Annotated[Number, Field(ge=0, lt=1)]


class ModelSettings(_Section):
    """The network, the file under models/ that holds its weights, what it is computed in."""

    architecture: Annotated[str, AfterValidator(_known_architecture)]
    weights: Annotated[str, AfterValidator(_below_models)]
    precision: Literal["float32", "bfloat16"]


class Candidate(_Section):
    """One set of hyper-parameters that cross-validation compares with the others.

    `train_from` is where training begins: "head" (the classifier alone, freeze_backbone: true),
    a stage's name, or "pixels" (the whole network). A head has no learning rate; its weight_decay
    is the coefficient of an L2 penalty (`head.fit_head`), that of the others is AdamW's.
    """

    freeze_backbone: bool
    train_from: str
    learning_rate: Annotated[Number, Field(gt=0)] | None = None
    weight_decay: Annotated[Number, Field(ge=0)]

    @model_validator(mode="before")
    @classmethod
    def _either_implies_the_other(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        frozen, stage = values.get("freeze_backbone"), values.get("train_from")
        if frozen is None and stage is None:
            raise ValueError("give freeze_backbone or train_from")
        if stage is None:
            stage = HEAD if frozen else PIXELS
        if frozen is None:
            frozen = stage == HEAD
        if isinstance(frozen, bool) and frozen != (stage == HEAD):
            raise ValueError(f"freeze_backbone: {frozen} contradicts train_from: {stage}")
        return {**values, "freeze_backbone": frozen, "train_from": stage}

    @model_validator(mode="after")
    def _rate_unless_head(self) -> Self:
        if self.train_from != HEAD:
            if self.learning_rate is None:
                raise ValueError("learning_rate: is missing")
        elif self.learning_rate is not None:
            raise ValueError(
                "learning_rate: a classifier on the frozen network has none, as it is trained to "
                "convergence: delete it, and let such candidates differ by their weight_decay"
            )
        elif self.weight_decay == 0:
            raise ValueError(
                "weight_decay: has to be above 0 for a classifier on the frozen network: without "
                "a penalty its training need not converge"
            )
        return self

    @property
    def name(self) -> str:
        """The candidate in a few characters, unique among the candidates of a run."""
        rate = "" if self.learning_rate is None else f" lr={self.learning_rate:g}"
        return f"{self.train_from}{rate} wd={self.weight_decay:g}"


class ExtractionSettings(_Section):
    """How many steps share the images when features are extracted; numbers do not depend on it."""

    shards: Annotated[int, Field(ge=1, le=100)]


class TrainingSettings(_Section):
    """How every candidate but a head is trained."""

    num_epochs: Annotated[int, Field(ge=1, le=1000)]
    batch_size: Annotated[int, Field(ge=2)]
    seed: Seed

    @model_validator(mode="before")
    @classmethod
    def _patience_is_gone(cls, values: Any) -> Any:
        if isinstance(values, dict) and "patience" in values:
            raise ValueError(
                "patience: there is no early stop any more, since a fit that ends before the "
                "learning rate has fallen is worse than it need be: delete it"
            )
        return values


class ThreadSettings(_Section):
    """Processor threads of train_fold and of the steps that run alone; numbers depend on them."""

    alone: Positive
    folds: Positive


class GateSettings(_Section):
    """What a model must reach, and by how much it must not be worse, to become champion."""

    min_macro_f1: Annotated[Number, Field(ge=0, le=1)]
    margin: Annotated[Number, Field(ge=0, lt=1)] = 0.02


class TrackingSettings(_Section):
    """MLflow's address, experiment and registered model."""

    uri: str | None
    experiment: Name
    model_name: Name

    @property
    def store(self) -> str | None:
        """The address here, or else that in MLFLOW_TRACKING_URI; None: the local store."""
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or None


class Settings(_Section):
    """The whole of params.yaml."""

    data: DataSettings
    model: ModelSettings
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1, strict=False)]
    extraction: ExtractionSettings
    training: TrainingSettings
    threads: ThreadSettings
    gate: GateSettings
    tracking: TrackingSettings

    @model_validator(mode="after")
    def _candidates_differ(self) -> "Settings":
        names = [candidate.name for candidate in self.candidates]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"candidates: the same one stands twice: {', '.join(twice)}")
        return self

    @property
    def cuts(self) -> list[str]:
        """The distinct places where training begins, in the order of the candidates."""
        return list(dict.fromkeys(candidate.train_from for candidate in self.candidates))


def load_settings(path: Path, changes: Sequence[str] = ()) -> Settings:
    """Read params.yaml, apply changes such as "training.num_epochs=5", and check the result.

    Raises:
        UserError: the file is missing or not YAML, or a key is unknown, missing, of a wrong type
            or has an impossible value; every such key is named with its value and what is allowed.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is not there: run crossfold in the project's folder, which holds it"
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or no such date
        raise UserError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings: take the one that the project came with")
    for change in changes:
        _apply(values, change)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        source = f"{path} with --set {' --set '.join(changes)}" if changes else str(path)
        raise UserError(f"{source} has mistakes:\n{problems}") from None


def _apply(values: Any, change: str) -> None:
    key, separator, text = change.partition("=")
    if not separator:
        raise UserError(f"--set {change}: write it as KEY=VALUE, as in training.num_epochs=5")
    *parents, last = key.split(".")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"--set {change}: {text!r} is not a YAML value") from None
    try:
        section = values
        for name in parents:
            section = section[int(name) if isinstance(section, list) else name]
        if isinstance(section, list):
            section[int(last)] = value
        else:
            section[last] = value
    except (KeyError, IndexError, TypeError, ValueError):
        raise UserError(f"--set {change}: params.yaml has no key {key!r}") from None


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: there is no such setting"
        case "missing":
            return f"{key}: is missing"
        case "value_error":
            message = str(problem["ctx"]["error"])
            return f"{key}: {message}" if key else message
        case "model_type":
            return f"{key}: {problem['input']!r} is not allowed: input should be a section"
        case _:
            allowed = problem["msg"].lower().replace("tuple", "list")
            return f"{key}: {problem['input']!r} is not allowed: {allowed}"
