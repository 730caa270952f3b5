"""Read a user's weights file: a state dict, alone or anywhere in a checkpoint, under any prefix.

Checkpoints of Lightning, DataParallel and torch.compile nest or prefix the names. No code in a file
is run: it is safetensors, or torch reads it with `weights_only`. See docs/decisions/028.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from crossfold.data.models_folder import CONFIG
from crossfold.errors import UserError

# Levels of nested dictionaries that are searched for weights.
_MAX_DEPTH = 4
# Prefix that torch.compile adds to names.
_COMPILED = "_orig_mod."


class Weights(NamedTuple):
    """A network's tensors by its own names; `source` is their place in the file, if nested."""

    tensors: dict[str, Tensor]
    source: str


class _Group(NamedTuple):
    """Tensors at one place of a file, whose names share one prefix."""

    place: str
    prefix: str
    tensors: dict[str, Tensor]

    def fits(self, wanted: Mapping[str, Tensor]) -> bool:
        return not self.problems(wanted)

    def problems(self, wanted: Mapping[str, Tensor]) -> list[str]:
        return [
            f"{name}: {_shape(self.tensors.get(name))}, not {_shape(tensor)}"
            for name, tensor in wanted.items()
            if name not in self.tensors or self.tensors[name].shape != tensor.shape
        ]

    @property
    def is_average(self) -> bool:
        """True if its name marks an exponential moving average, such as `model_ema`."""
        return "ema" in f"{self.place}.{self.prefix}".lower().replace("_", ".").split(".")

    @property
    def source(self) -> str:
        place = f"`{self.place}`" if self.place else ""
        prefix = f"names without `{self.prefix}`" if self.prefix else ""
        return ", ".join(filter(None, (place, prefix)))


def read_weights(path: Path, architecture: str, wanted: Mapping[str, Tensor]) -> Weights:
    """Find a network's tensors in a file, by the ends of their names and their shapes.

    If the file holds weights and their exponential moving average, takes the average.

    Args:
        path: A file in the format of safetensors or of `torch.save`.
        architecture: Name of the network, for errors.
        wanted: Tensors with the names and shapes that the network needs.

    Raises:
        UserError: the file cannot be read, does not hold these tensors, or holds several
            different sets of them.
    """
    groups = list(_groups(_read(path), wanted))
    if not groups:
        raise UserError(
            "params.yaml model.weights: the file has no state dict (tensors by name). Save one "
            "with torch.save(model.state_dict(), path)"
        )
    fitting = [group for group in groups if group.fits(wanted)]
    if not fitting:
        raise _unfit(
            min(groups, key=lambda group: len(group.problems(wanted))), architecture, wanted
        )
    averages = [group for group in fitting if group.is_average]
    chosen, *others = averages or fitting
    if any(not _equal(chosen, other, wanted) for other in others):
        sources = "; ".join(group.source or "its top" for group in (chosen, *others))
        raise UserError(
            f"params.yaml model.weights: the file holds several sets of weights for "
            f"{architecture}: {sources}. Save one of them alone, as a state dict"
        )
    return Weights({name: chosen.tensors[name] for name in wanted}, chosen.source)


def _unfit(group: _Group, architecture: str, wanted: Mapping[str, Tensor]) -> UserError:
    problems = group.problems(wanted)
    shown = "; ".join(problems[:5]) + ("; …" if len(problems) > 5 else "")
    where = f" ({group.source})" if group.source else ""
    return UserError(
        f"params.yaml model.weights: the file{where} does not fit {architecture}: {len(problems)} "
        f"of {len(wanted)} tensors are missing or of another shape ({shown}). Set model.weights "
        f"and model.architecture in params.yaml to a matching pair"
    )


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else str(list(tensor.shape))


def _equal(one: _Group, other: _Group, wanted: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one.tensors[name], other.tensors[name]) for name in wanted)


def _groups(content: object, wanted: Mapping[str, Tensor]) -> Iterator[_Group]:
    """Yield the tensors at each place of a file, for each prefix of wanted names."""
    for place, tensors in _state_dicts(content, ()):
        names = {name.replace(_COMPILED, ""): name for name in tensors}
        compiled = _COMPILED if any(_COMPILED in name for name in tensors) else ""
        for prefix in _prefixes(names, wanted):
            yield _Group(
                ".".join(place),
                prefix + compiled,
                {
                    name.removeprefix(prefix): tensors[original]
                    for name, original in names.items()
                    if name.startswith(prefix)
                },
            )


def _state_dicts(
    content: object, place: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or len(place) > _MAX_DEPTH:
        return
    tensors = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if tensors:
        yield place, tensors
    for name, value in content.items():
        yield from _state_dicts(value, (*place, str(name)))


def _prefixes(names: Mapping[str, str], wanted: Mapping[str, Tensor]) -> list[str]:
    """List the prefixes of wanted names, the most frequent first; [""] if no name is wanted."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return [prefix for prefix, _ in counts.most_common()] or [""]


def _read(path: Path) -> Any:
    try:
        if _is_safetensors(path):
            return safetensors.torch.load_file(path)
        # torchvision's training scripts save their arguments beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types, and advises to run the file's code
        known = isinstance(error, safetensors.SafetensorError)
        reason = str(error) if known else _other_content(path)
        raise _unreadable(reason) from None


def _unreadable(reason: str) -> UserError:
    return UserError(
        f"params.yaml model.weights: the file cannot be read: {reason}. "
        "Use safetensors, or save a state dict with torch.save(model.state_dict(), path)"
    )


def read_config(path: Path) -> str | None:
    """Read the text of config.json from the weights' folder, or from its copy as one file.

    Raises:
        UserError: the file cannot be read.
    """
    if path.is_dir():
        return (path / CONFIG).read_text(encoding="utf-8") if (path / CONFIG).is_file() else None
    if not _is_safetensors(path):
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(CONFIG)
    except safetensors.SafetensorError as error:
        raise _unreadable(str(error)) from None


def _other_content(path: Path) -> str:
    """Explain why torch cannot read a file, without running its content."""
    try:
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # another format, or damaged
        classes = []
    if classes:
        return f"it holds more than tensors and their names ({', '.join(sorted(classes)[:3])})"
    return "damaged, or more than tensors and their names"


def _is_safetensors(path: Path) -> bool:
    """Recognise the format by its header, because a step gets the file without its suffix."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"
