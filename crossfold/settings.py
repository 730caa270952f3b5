"""Read params.yaml as frozen, validated, typed settings."""

import os
import reprlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from crossfold.architectures import ARCHITECTURES, TIMM, TORCHVISION, timm_name
from crossfold.data.grouping.rule import FORMS, CsvFileName, GroupRule, file_of
from crossfold.data.layouts.listing import escaped
from crossfold.diagnosis_settings import DIAGNOSIS, DiagnosisSettings
from crossfold.errors import UserError, suggestion
from crossfold.records import Choice, ClassWeights
from crossfold.resource_settings import NO_RESOURCES, Number, ResourceSettings, Section
from crossfold.step.yaml_text import parse_yaml

Value = TypeVar("Value")
# Aliases make a few lines of YAML a value that takes gigabytes as text.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlevel = 3

PIXELS = "pixels"
HEAD = "head"
FLOAT32, INT8, AUTO = "float32", "int8", "auto"


def _known_architecture(name: str) -> str:
    if in_timm := timm_name(name):  # checked where timm is imported, before a run starts
        if "." in in_timm:
            raise ValueError(
                f"{name!r} is not allowed: leave out the tag of the weights, as in "
                f"{name.partition('.')[0]}"
            )
        return name
    bare = name.removeprefix(TORCHVISION)
    if bare not in ARCHITECTURES:
        raise ValueError(
            f"torchvision has no classification network {bare!r}; "
            f"{suggestion(bare, ARCHITECTURES)} A network of timm has the prefix {TIMM}"
        )
    return bare


def _below_models(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or not path.name:
        raise ValueError(
            f"{name!r} is not allowed: give a path below models/, such as sub/weights.safetensors"
        )
    return name


Share = Annotated[Number, Field(gt=0, le=1)]
Fraction = Annotated[Number, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[Number, Field(gt=0)]
Decay = Annotated[Number, Field(ge=0)]
# The characters / @ : and quotes have a meaning in MLflow's URIs and searches.
Name = Annotated[str, Field(pattern=r"^[^/@:'\"]+$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
View = Literal["mirrored", "cropped"]  # see network.views


class DataSettings(Section):
    """The images, and how they are split."""

    remote: str = Field(description="DVC remote to pull from: a name in `.dvc/config`.")
    test_fraction: Fraction = Field(description="Share of each class held out as the test split.")
    num_folds: int = Field(ge=2, le=100, description="Number of cross-validation folds.")
    seed: Seed = Field(description="Seed of the holdout and the folds.")
    max_skipped_fraction: Number = Field(
        ge=0, lt=1, description="Share of the images that may be skipped as unusable."
    )
    labels: CsvFileName | None = Field(
        default=None,
        description="CSV file in `data/` that lists the images: columns `path` (below `data/`) and "
        "`label` (the class), and optionally `group` and `split`. Files that it does not list are "
        "left out. Without the setting: the folders are the classes.",
    )
    groups: GroupRule | None = Field(
        default=None,
        description="Images of one group, such as a patient, plant or camera, are never on two "
        "sides of a split. `folder`: the folder below the class, `data/<class>/<group>/`. "
        "`{pattern: '(?P<group>[^_]+)_'}`: a regular expression with one named group, searched in "
        "the file's name. `{file: groups.csv}`: a CSV file in `data/` with the columns `path` and "
        "`group`. Without the setting: no groups.",
    )
    tie_near_duplicates: bool = Field(
        default=False,
        description="`true`: near duplicates, too, are never on two sides of a split. Without the "
        "setting: `false`.",
    )
    exclude: CsvFileName | None = Field(
        default=None,
        description="CSV file in `data/` with the column `path` (below `data/`): these images are "
        "left out. Without the setting: none.",
    )
    relabel: CsvFileName | None = Field(
        default=None,
        description="CSV file in `data/` with the columns `path` (below `data/`) and `label`: "
        "these images get this label, which must be a class. Without the setting: none.",
    )

    @model_validator(mode="after")
    def _files_differ(self) -> Self:
        others = {self.labels, file_of(self.groups)} - {None}
        if self.exclude in others or self.relabel in {*others, self.exclude} - {None}:
            raise ValueError(
                "exclude and relabel: each needs a file for itself, such as exclude.csv and "
                "relabel.csv"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _image_size_moved(cls, values: Any) -> Any:
        if isinstance(values, dict) and "image_size" in values:
            raise ValueError(
                "image_size: moved to the section model, since networks have different sizes. "
                "Write model.image_size instead, or delete it to use the network's own"
            )
        return values


class PreprocessingSettings(Section):
    """The preprocessing in place of the network's own."""

    # Not strict, because kfp hands integers in a dictionary to a step as floats.
    image_size: int | None = Field(
        default=None,
        strict=False,
        ge=8,
        le=2048,
        description="Side of the square that images are scaled to, in pixels. Without the "
        "setting: the network's own.",
    )
    mean: Annotated[tuple[Number, Number, Number], Field(strict=False)] | None = Field(
        default=None,
        description="Mean of the channels red, green and blue, for values from 0 to 1. Without "
        "the setting: the network's own.",
    )
    std: Annotated[tuple[Share, Share, Share], Field(strict=False)] | None = Field(
        default=None,
        description="Standard deviation of these channels. Without the setting: the network's own.",
    )
    interpolation: Literal["bilinear", "bicubic"] | None = Field(
        default=None,
        description="Filter that scales the images. Without the setting: the network's own.",
    )
    crop: Share | None = Field(
        default=None,
        description="Share of an image's shorter side that the centre square covers. Without the "
        "setting: 1, or that of a Hugging Face folder.",
    )

    def given(self) -> dict[str, Any]:
        """List the settings that are given, by name."""
        return self.model_dump(include=set(PreprocessingSettings.model_fields), exclude_none=True)


class Network(PreprocessingSettings):
    """A network, its pretrained weights, and changes to its preprocessing."""

    architecture: Annotated[str, AfterValidator(_known_architecture)] = Field(
        description="One of torchvision's classification networks, such as `resnet18`, or of "
        "timm's, such as `timm/convnextv2_nano`."
    )
    weights: Annotated[str, AfterValidator(_below_models)] = Field(
        description="Weights below `models/`: a file such as `sub/weights.safetensors`, or a "
        "folder with timm's `config.json` and `model.safetensors`. `models.dvc` must list them."
    )


class Backbone(Network):
    """One of several networks that are compared, with a name for the candidates."""

    name: str = Field(
        pattern=r"^[a-z0-9_-]+$",
        max_length=40,
        description="Short name of lower-case letters, digits, `_` and `-`.",
    )


Precision = Annotated[
    Literal["float32", "bfloat16", "int8", "auto"],
    Field(
        description="Number format of the network's computation. `bfloat16` and `int8` are faster "
        "on processors that support them, and less precise. `int8` quantizes the frozen part only. "
        "`auto` takes `int8` if the processor supports it and the loss is shown to be within "
        "`gate.margin`, else `float32`. A head on frozen features always uses `float32`."
    ),
]


class ModelSettings(Network):
    """The network, its pretrained weights, and changes to its preprocessing."""

    precision: Precision

    @property
    def all_backbones(self) -> tuple[Backbone, ...]:
        """The network as a backbone with the name of its architecture."""
        network = self.model_dump(exclude={"precision"})
        name = self.architecture.rpartition("/")[2]
        return (Backbone.model_construct(name=name, **network),)


class SeveralModelsSettings(Section):
    """Several networks to compare, in place of one."""

    precision: Precision
    backbones: Annotated[tuple[Backbone, ...], Field(min_length=1, strict=False)] = Field(
        description="The networks, each with a `name` and the settings of one network."
    )

    @model_validator(mode="before")
    @classmethod
    def _no_network_beside_them(cls, values: dict[str, Any]) -> dict[str, Any]:
        if beside := sorted(values.keys() & Network.model_fields):
            raise ValueError(
                f"{', '.join(beside)}: give one network or a list of backbones, not both. Move "
                "them into an entry of backbones"
            )
        return values

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if twice := _repeated(backbone.name for backbone in self.backbones):
            raise ValueError(f"backbones: duplicate names: {', '.join(twice)}")
        return self

    @property
    def all_backbones(self) -> tuple[Backbone, ...]:
        """The backbones, in the order of params.yaml."""
        return self.backbones


_ONE, _SEVERAL = "one network", "several backbones"


def _form(model: Any) -> str:
    """Tell which of its two forms the section `model` has."""
    is_several = "backbones" in model if isinstance(model, dict) else hasattr(model, "backbones")
    return _SEVERAL if is_several else _ONE


class Range(Section):
    """Several values in place of one: from the lowest to the highest, at equal ratios."""

    lowest: Rate = Field(alias="from", description="The lowest value.")
    highest: Rate = Field(alias="to", description="The highest value.")
    num: int = Field(ge=2, le=50, description="Number of values, with the lowest and the highest.")

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError(f"from: {self.lowest:g} must be below to: {self.highest:g}")
        return self

    @property
    def values(self) -> list[float]:
        """The values, rounded to two significant digits, or to as many as tell them apart."""
        ratio = self.highest / self.lowest
        exact = [self.lowest * ratio ** (i / (self.num - 1)) for i in range(1, self.num - 1)]
        for digits in range(2, 17):
            between = (float(f"{value:.{digits}g}") for value in exact)
            values = [self.lowest, *between, self.highest]
            if values == sorted(set(values)):
                break
        return values


_NUMBER, _RANGE = "number", "range"


def _number_or_range(value: Any) -> str:
    return _RANGE if isinstance(value, dict | Range) else _NUMBER


OrRange = Annotated[Range, Tag(_RANGE)]
RateOrRange = Annotated[Annotated[Rate, Tag(_NUMBER)] | OrRange, Discriminator(_number_or_range)]
DecayOrRange = Annotated[Annotated[Decay, Tag(_NUMBER)] | OrRange, Discriminator(_number_or_range)]


class CandidateEntry(Section):
    """One set of hyper-parameters that cross-validation compares with the others.

    Give `freeze_backbone` or `train_from`; each implies the other. A candidate with
    `freeze_backbone: true` trains the classifier (the head) alone, to convergence. With a range,
    the entry stands for one candidate per value; with two ranges, for one per pair of values.
    """

    backbone: str | None = Field(
        default=None,
        description="Name of one of several backbones. Without it, the candidate is compared on "
        "each of them.",
    )
    freeze_backbone: bool = Field(
        description="`true` trains the head alone, `false` the whole network."
    )
    train_from: str = Field(
        description="First part that is trained: `head` (the classifier alone), a stage's name "
        "such as `layer4`, or `pixels` (the whole network)."
    )
    learning_rate: RateOrRange | None = Field(
        default=None, description="AdamW's initial learning rate. A head has none."
    )
    weight_decay: DecayOrRange = Field(
        description="AdamW's weight decay. For a head, the strength of its L2 penalty, which must "
        "be above 0. The fewer images, the stronger: start with 20 to 40 divided by their number.",
    )

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
        if not self.is_head:
            if self.learning_rate is None:
                raise ValueError("learning_rate: is missing")
        elif self.learning_rate is not None:
            raise ValueError(
                "learning_rate: a head has none, because it is trained to convergence. Delete it; "
                "heads differ by weight_decay"
            )
        elif self.weight_decay == 0:
            raise ValueError(
                "weight_decay: must be above 0 for a head: without a penalty its training may not "
                "converge"
            )
        return self

    @property
    def is_head(self) -> bool:
        """Whether only the classifier on the frozen network is trained."""
        return self.train_from == HEAD

    @property
    def candidates(self) -> list["Candidate"]:
        """The candidates that the entry stands for: several if it has a range."""
        shared = self.model_dump(exclude={"learning_rate", "weight_decay"})
        pairs = product(_values(self.learning_rate), _values(self.weight_decay))
        return [Candidate(**shared, learning_rate=lr, weight_decay=wd) for lr, wd in pairs]


class Candidate(CandidateEntry):
    """An entry without ranges: one set of hyper-parameters."""

    learning_rate: Rate | None = None
    weight_decay: Decay

    @property
    def name(self) -> str:
        """A short name, unique among the candidates of a run."""
        backbone = "" if self.backbone is None else f"{self.backbone} "
        rate = "" if self.learning_rate is None else f" lr={self.learning_rate:g}"
        return f"{backbone}{self.train_from}{rate} wd={self.weight_decay:g}"


def _values(setting: Value | Range) -> Sequence[Value | float]:
    return setting.values if isinstance(setting, Range) else (setting,)


class ExtractionSettings(Section):
    """Feature extraction."""

    shards: int = Field(
        ge=1,
        le=100,
        description="Number of steps that share the images, each in its own pod. The results do "
        "not depend on it.",
    )


class AugmentationSettings(Section):
    """Further views of each image: variants that must not change its class."""

    views: Annotated[tuple[View, ...], Field(strict=False)] = Field(
        default=(),
        description="Kinds of views that are trained on beside the images themselves: `mirrored` "
        "(left and right swapped), `cropped` (the centre square of 80 % of the side, enlarged). "
        "Without the setting: none.",
    )
    test_time: bool = Field(
        default=False,
        description="`true`: each prediction is the mean over the image and its views, which takes "
        "as many times as long. Without the setting: `false`.",
    )

    @model_validator(mode="after")
    def _views_fit(self) -> Self:
        if twice := _repeated(self.views):
            raise ValueError(f"views: duplicate entries: {', '.join(twice)}")
        if self.test_time and not self.views:
            raise ValueError(
                "test_time: there are no views to average over. List some under "
                "augmentation.views, or set it to false"
            )
        return self

    @property
    def predicted_views(self) -> tuple[View, ...]:
        """The views that a prediction averages over, beside the image itself."""
        return self.views if self.test_time else ()


class TrainingSettings(Section):
    """Training of the candidates. Heads have no epochs and no batches."""

    num_epochs: int = Field(
        ge=1,
        le=1000,
        description="Epochs of each fit. The learning rate falls along a cosine over them, and "
        "the last epoch counts.",
    )
    batch_size: int = Field(ge=2, description="Images per optimizer step.")
    seed: Seed = Field(description="Seed of the initial weights and the order of the images.")
    portable: bool = Field(
        default=True,
        description="Train heads with arithmetic that gives the same bits on every x86-64 "
        "processor with AVX2. `false` is faster where transformers are trained deeper than the "
        "head. Without the setting: `true`.",
    )
    class_weights: ClassWeights = Field(
        default=ClassWeights.NONE,
        strict=False,
        description="`balanced`: each class weighs the same in the loss, however few images it "
        "has. `none`: each image weighs the same. Without the setting: `none`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _patience_is_gone(cls, values: Any) -> Any:
        if isinstance(values, dict) and "patience" in values:
            raise ValueError(
                "patience: early stopping was removed, because it ended fits before the learning "
                "rate had fallen. Delete this setting"
            )
        return values


class ThreadSettings(Section):
    """Processor threads of the steps. The last digits of the results depend on them."""

    alone: Positive = Field(description="Threads of each step that computes alone.")
    folds: Positive = Field(
        description="Threads of each `train_fold`. On one machine two folds train at a time."
    )


class GateSettings(Section):
    """Conditions for a new version to become champion."""

    min_macro_f1: Number = Field(
        ge=0, le=1, description="Lowest macro F1 on the test split with which it may."
    )
    margin: Number = Field(
        default=0.02,
        ge=0,
        lt=1,
        description='How much macro F1 a challenger may lose and still count as "not worse". '
        "Without the setting: 0.02.",
    )


class RegistrySettings(Section):
    """Conditions for the use of a registered version."""

    signature_key: str | None = Field(
        default=None,
        description="File with a public key, in PEM, relative to the project's folder. With it, "
        "only a version with its signature becomes champion, predicts or is served. `null`: no "
        "signature is checked.",
    )


class TrackingSettings(Section):
    """MLflow's address, experiment and registered model."""

    uri: str | None = Field(
        description="MLflow's address. `null` means `MLFLOW_TRACKING_URI` or, without that "
        "variable, the store under `runs/`."
    )
    experiment: Name = Field(description="Name of the MLflow experiment.")
    model_name: Name = Field(description="Name of the registered model.")

    @property
    def store(self) -> str | None:
        """MLflow's address from params.yaml or MLFLOW_TRACKING_URI; None for the local store."""
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or None


class Settings(Section):
    """The whole of params.yaml."""

    data: DataSettings
    model: Annotated[
        Annotated[ModelSettings, Tag(_ONE)] | Annotated[SeveralModelsSettings, Tag(_SEVERAL)],
        Discriminator(_form),
    ]
    candidates: Annotated[tuple[CandidateEntry, ...], Field(min_length=1, strict=False)]
    choice: Choice = Field(
        default=Choice.BEST,
        strict=False,
        description="`best`: the candidate with the highest mean macro F1 over the folds. "
        "`smallest`: of the candidates within one standard error of it, the one with the fewest "
        "parameters.",
    )
    extraction: ExtractionSettings
    augmentation: AugmentationSettings = Field(default_factory=AugmentationSettings)
    training: TrainingSettings
    threads: ThreadSettings
    gate: GateSettings
    registry: RegistrySettings = Field(default_factory=RegistrySettings)
    diagnosis: DiagnosisSettings = DIAGNOSIS
    tracking: TrackingSettings
    resources: ResourceSettings = NO_RESOURCES

    @model_validator(mode="after")
    def _candidates_and_backbones_fit(self) -> "Settings":
        names = [backbone.name for backbone in self.backbones]
        for index, entry in enumerate(self.candidates):
            if entry.backbone is not None and entry.backbone not in names:
                raise ValueError(
                    f"candidates.{index}.backbone: there is no backbone {entry.backbone!r}; "
                    f"{suggestion(entry.backbone, names)}"
                )
        if twice := _repeated(candidate.name for candidate in self.compared):
            raise ValueError(f"candidates: duplicate entries: {', '.join(twice)}")
        if unused := [backbone.name for backbone in self.backbones if not self.cuts(backbone)]:
            raise ValueError(
                f"model.backbones: no candidate uses {', '.join(unused)}: delete it, or add a "
                "candidate with its name, or one with no name"
            )
        return self

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        """The backbones to compare, at least one."""
        return self.model.all_backbones

    @property
    def compared(self) -> tuple[Candidate, ...]:
        """The candidates that cross-validation compares, backbone by backbone.

        An entry that names no backbone is compared on each. With only one backbone, none has a
        name.
        """
        several = len(self.backbones) > 1
        return tuple(
            candidate.model_copy(update={"backbone": backbone.name if several else None})
            for backbone in self.backbones
            for entry in self.candidates
            if entry.backbone in (None, backbone.name)
            for candidate in entry.candidates
        )

    def cuts(self, backbone: Backbone) -> list[str]:
        """List the distinct places where training of a backbone begins, as the candidates do."""
        return list(
            dict.fromkeys(
                entry.train_from
                for entry in self.candidates
                if entry.backbone in (None, backbone.name)
            )
        )


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def load_settings(path: Path, changes: Sequence[str] = ()) -> Settings:
    """Read params.yaml, apply changes such as "training.num_epochs=5", and validate the result.

    Raises:
        UserError: the file is missing or not YAML, or a key is unknown, missing, of a wrong type,
            or has a forbidden value; the message lists every such key, its value, and the rule.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run crossfold in the project's folder") from None
    except ValueError as error:  # also if it is not UTF-8
        raise UserError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} has no settings: restore it: git checkout {path}")
    for change in changes:
        _apply(values, change)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(one)}" for one in error.errors() if not _follows(one))
        source = f"{path} with --set {' --set '.join(changes)}" if changes else str(path)
        raise UserError(f"{source} has mistakes:\n{problems}") from None


def _apply(values: Any, change: str) -> None:
    key, separator, text = change.partition("=")
    if not separator:
        raise UserError(f"--set {change}: write it as KEY=VALUE, as in training.num_epochs=5")
    *parents, last = key.split(".")
    try:
        value = parse_yaml(text)
    except ValueError:
        raise UserError(f"--set {change}: {text!r} is not a YAML value") from None
    try:
        section = values
        for name in parents:
            if isinstance(section, list):
                section = section[int(name)]
                continue
            if section.get(name) is None:  # missing or empty; an unknown one is refused later
                section[name] = {}
            section = section[name]
        if isinstance(section, list):
            section[int(last)] = value
        else:
            section[last] = value
    except (AttributeError, IndexError, TypeError, ValueError):
        raise UserError(f"--set {change}: params.yaml has no key {key!r}") from None


def _follows(problem: Any) -> bool:
    """Tell whether a problem follows from others: a list is short of its mistaken items."""
    return bool(problem["type"] == "too_short" and problem["input"])


def _shown(value: object) -> str:
    try:
        return _SHORT.repr(value)
    except ValueError:  # more digits than Python writes
        return "this number"


def _explain(problem: Any) -> str:
    forms = (_ONE, _SEVERAL, _NUMBER, _RANGE, *FORMS)
    key = escaped(".".join(str(part) for part in problem["loc"] if part not in forms))
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: there is no such setting"
        case "missing":
            return f"{key}: is missing"
        case "value_error":
            message = str(problem["ctx"]["error"])
            return f"{key}: {message}" if key else message
        case "model_type":
            return f"{key}: {_shown(problem['input'])} is not allowed: input should be a section"
        case _:
            allowed = problem["msg"].lower().replace("tuple", "list")
            return f"{key}: {_shown(problem['input'])} is not allowed: {allowed}"
