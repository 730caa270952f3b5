"""Write the reference pages from the code: commands, settings, steps, licences.

    make reference

A test fails while a page differs from the code.
"""

import importlib
import pkgutil
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import docstring_parser
import typer
import yaml
from google.protobuf.json_format import MessageToDict

import components
from crossfold.cli.main import app
from crossfold.settings import Settings
from pipelines.classification import pipeline

FOLDER = Path(__file__).resolve().parent
PARAMS = FOLDER.parents[1] / "params.yaml"
LICENCES = FOLDER.parents[1] / "requirements/licences.toml"
NOTICE = "<!-- Generated from the code by `make reference`. Do not edit. -->"

# JSON schema's names, and pydantic's for a bound on a checked number.
BOUNDS = {
    "minimum": "≥",
    "ge": "≥",
    "exclusiveMinimum": ">",
    "gt": ">",
    "maximum": "≤",
    "le": "≤",
    "exclusiveMaximum": "<",
    "lt": "<",
}


def commands() -> Iterator[str]:
    """Describe every command of `crossfold`, as its `--help` does."""
    yield "# Commands"
    yield (
        "Every command runs in the project's folder, with `.venv` activated "
        "(`source .venv/bin/activate`). "
        "[Exit statuses](../results.md#exit-status-of-crossfold) are the same for all."
    )
    yield from _command(typer.main.get_command(app), "crossfold", None)


def _command(command: Any, name: str, parent: typer.Context | None) -> Iterator[str]:
    context = typer.Context(command, info_name=name, parent=parent)
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield f"{'##' if parent else '#'} `{context.command_path}`" if parent else ""
    yield command.help
    yield f"```text\n{usage}\n```"
    records = [parameter.get_help_record(context) for parameter in command.params]
    if records:
        yield _table(("argument or option", "meaning"), [(f"`{n}`", text) for n, text in records])
    for key, sub_command in getattr(command, "commands", {}).items():
        yield from _command(sub_command, key, context)


def settings() -> Iterator[str]:
    """Describe every setting of params.yaml: its type, its bounds, its shipped value."""
    schema = Settings.model_json_schema()
    shipped = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    yield "# Settings"
    yield (
        "`params.yaml` holds every setting. [Settings](../settings.md) explains how to change "
        "one, and which steps a change repeats."
    )
    for name, entry in schema["properties"].items():
        values = shipped[name]
        if isinstance(values, str):  # a setting outside the sections
            yield f"## `{name}`"
            yield _settings_table({name: {**_referred(schema, entry), **entry}}, shipped, "")
            continue
        if isinstance(values, list):
            values = {}  # each candidate has its own
        forms = entry.get("oneOf") or [entry.get("items") or entry]
        for number, form in enumerate(forms):
            section = _referred(schema, form)
            yield f"## `{name}`" + (", with several backbones" if number else "")
            yield section["description"]
            prefix = f"{name}."
            if name == "resources":  # each step has the same settings
                section, prefix = schema["$defs"]["StepResources"], "resources.STEP."
            yield _settings_table(section["properties"], values, prefix)
        if name == "candidates":
            ranges = schema["$defs"]["Range"]
            yield "### A range"
            yield ranges["description"]
            yield _settings_table(ranges["properties"], {}, "")


def _referred(schema: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    definition: dict[str, Any] = schema["$defs"][entry["$ref"].rpartition("/")[2]]
    return definition


def _settings_table(fields: dict[str, Any], values: dict[str, Any], prefix: str) -> str:
    return _table(
        ("setting", "type", "allowed", "in params.yaml", "meaning"),
        [
            (
                f"`{prefix}{key}`",
                _type(field),
                _allowed(field),
                f"`{yaml.safe_dump(values[key]).splitlines()[0]}`" if key in values else "",
                field["description"],
            )
            for key, field in fields.items()
        ],
    )


def _type(field: dict[str, Any]) -> str:
    record = field.get("$ref", "").rpartition("/")[2].removesuffix("Groups").lower()
    name = field.get("type") or record
    return name or " or ".join(_type(option) for option in _options(field))


def _options(field: dict[str, Any]) -> list[dict[str, Any]]:
    return field.get("anyOf") or field.get("oneOf") or []


def _allowed(field: dict[str, Any]) -> str:
    """Write a field's bounds, or the values that it may have."""
    options = [field, *_options(field)]
    options += [nested for option in options[1:] for nested in _options(option)]
    bounds = [f"{BOUNDS[k]} {option[k]}" for option in options for k in BOUNDS if k in option]
    return ", ".join(bounds) or " or ".join(f"`{value}`" for value in field.get("enum", []))


def steps() -> Iterator[str]:
    """Describe every step: inputs, outputs, image, cores and memory."""
    yield "# Steps"
    yield (
        "Each step is one file in [components](../../components). `fetch_weights` and "
        "`extract_features` run once, or once for each backbone and shard (`extraction.shards`) "
        "with `join_features` after them; `train_fold` runs once for each fold."
    )
    containers = _containers()
    for module in pkgutil.iter_modules(components.__path__):
        step = getattr(importlib.import_module(f"components.{module.name}"), module.name)
        container = containers[f"exec-{module.name.replace('_', '-')}"]
        documented = docstring_parser.parse(step.python_func.__doc__)
        meanings = {parameter.arg_name: parameter.description for parameter in documented.params}
        yield f"## `{module.name}`"
        yield str(documented.short_description)
        yield _container(container)
        for direction in ("inputs", "outputs"):
            specs = getattr(step.component_spec, direction)
            rows = [
                (f"`{name}`", _kind(spec), " ".join((meanings[name] or "").split()))
                for name, spec in specs.items()
            ]
            yield _table((direction.removesuffix("s"), "type", "meaning"), rows)


def _containers() -> dict[str, Any]:
    """Collect every step's container, with and without several parts of the extraction."""
    return {
        name: executor["container"]
        for several_parts in (False, True)
        for name, executor in MessageToDict(pipeline(several_parts=several_parts).pipeline_spec)[
            "deploymentSpec"
        ]["executors"].items()
    }


def _container(container: dict[str, Any]) -> str:
    role = container["image"].partition(":")[0].removeprefix("crossfold-")  # no tag: it changes
    resources = container["resources"]
    cpu, memory = (
        f"{resources[f'resource{kind}Request']} to {resources[f'resource{kind}Limit']}"
        for kind in ("Cpu", "Memory")
    )
    return f"Image `crossfold-{role}`. Cores: {cpu}. Memory: {memory}. (Request to limit.)"


def _kind(spec: Any) -> str:
    name = spec.type.removeprefix("system.").partition("@")[0]
    return f"list of {name}" if spec.is_artifact_list else name


def licences() -> Iterator[str]:
    """List the licences of the locked packages, and the exceptions from the allow-list."""
    record = tomllib.loads(LICENCES.read_text(encoding="utf-8"))
    packages: dict[str, str] = record["packages"]
    yield "# Licences"
    yield (
        f"Crossfold locks {len(packages)} packages, for your machine, for development and for the "
        "images. `requirements/licences.toml` has the licence of each as an "
        "[SPDX expression](https://spdx.org/licenses/), and the list of allowed licences."
    )
    yield _table(
        ("licence", "packages"),
        [
            (f"`{licence}`", ", ".join(n for n, held in packages.items() if held == licence))
            for licence in sorted(set(packages.values()))
        ],
    )
    yield "## Exceptions"
    yield "The licences of these packages are not in the list of allowed ones."
    yield _table(
        ("packages", "reason"),
        [(", ".join(entry["packages"]), entry["reason"]) for entry in record["exceptions"]],
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(" | ".join(["", *map(_cell, line), ""]).strip() for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "commands.md": commands,
    "licences.md": licences,
    "settings.md": settings,
    "steps.md": steps,
}


def render(name: str) -> str:
    """Return the text of a page."""
    title, *parts = PAGES[name]()
    return "\n\n".join([title, NOTICE, *filter(None, parts)]) + "\n"


def main() -> None:
    """Write every page."""
    for name in PAGES:
        (FOLDER / name).write_text(render(name), encoding="utf-8")


if __name__ == "__main__":
    main()
