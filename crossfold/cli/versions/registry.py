"""Commands for registered versions: models, lineage, promote, rollback, reproduce."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.text import Text

from crossfold.errors import UserError
from crossfold.runners.base import OnThisMachine, RunnerName

from ..console import PARAMS, console, fail, require_local_store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

    from crossfold.registry.gate import Decision, Rule
    from crossfold.settings import Settings


Version = Annotated[
    str,
    typer.Argument(
        metavar="VERSION",
        help="3, crossfold/3, crossfold@champion or @champion.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


def models(as_json: AsJson = False) -> None:
    """List the registered versions with their scores, newest first."""
    from .version_tables import model_rows, models_table

    settings, client = open_registry()
    name = settings.tracking.model_name
    matches = client.search_model_versions(f"name = '{name}'")
    versions = [client.get_model_version(name, match.version) for match in matches]  # with aliases
    versions.sort(key=lambda version: int(version.version), reverse=True)
    if as_json:
        _print_json(model_rows(versions))
    elif versions:
        console.print(models_table(versions))
    else:
        raise UserError(f"{name} has no version yet: `crossfold run` registers one")


def lineage(version: Version, as_json: AsJson = False) -> None:
    """Show the lineage of a version: commit, data, weights, settings, libraries, run."""
    from . import version_tables

    settings, client = open_registry()
    chosen = find(client, settings, version)
    if as_json:
        _print_json(version_tables.as_json(chosen))
    else:
        console.print(version_tables.lineage_table(chosen))


def promote(
    version: Version,
    yes: Yes = False,
    force: Annotated[
        bool, typer.Option("--force", help="Promote against the evidence; needs --reason.")
    ] = False,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Reason, for the record.", show_default=False)
    ] = "",
) -> None:
    """Make a version champion if the evidence allows it; exits with 1 if it doesn't."""
    from crossfold.registry import aliases, manual_promotion

    if force and not reason:
        raise UserError("--force needs a reason: add --reason TEXT")
    settings, client = open_registry()
    chosen = find(client, settings, version)
    champion = aliases.find_champion(client, chosen.name)
    if champion and champion.version == chosen.version:
        console.print(f"{chosen.name} version {chosen.version} is already the champion")
        return
    _require_signature(settings, chosen)
    decision = manual_promotion.judge_recorded(client, chosen, champion, _rule(settings))
    _show_evidence(chosen, champion, decision)
    if not decision.passed and not force:
        fail(
            f"{chosen.name} version {chosen.version} was not promoted. To promote it against the "
            "evidence, add --force --reason TEXT",
            1,
        )
    _confirm(f"Make {chosen.name} version {chosen.version} champion?", yes)
    manual_promotion.promote(
        client, chosen, champion, decision, reason=reason, forced=not decision.passed
    )
    _show_champion(chosen, champion)


def rollback(
    yes: Yes = False,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Reason, for the record.", show_default="asked for")
    ] = "",
) -> None:
    """Make the former champion the champion again. The gate won't undo this."""
    from crossfold.registry import aliases, manual_promotion

    settings, client = open_registry()
    name = settings.tracking.model_name
    find(client, settings, "@champion")
    champion = aliases.find_champion(client, name)
    former = aliases.find_former_champion(client, name)
    _require_signature(settings, former)
    decision = manual_promotion.judge_recorded(client, former, champion, _rule(settings))
    _show_evidence(former, champion, decision)
    if not reason and sys.stdin.isatty():
        reason = typer.prompt("Reason, for the record")
    if not reason:
        raise UserError("a rollback needs a reason: add --reason TEXT")
    _confirm(f"Make {name} version {former.version} champion again?", yes)
    manual_promotion.rollback(client, former, champion, decision, reason=reason)
    _show_champion(former, champion)


def reproduce(
    version: Version,
    on: Annotated[OnThisMachine, typer.Option(help="Where the steps run.")] = RunnerName.LOCAL,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the worktree and its run.")] = False,
) -> None:
    """Train a version again from its commit, data and settings; exits with 1 if it differs.

    Registers nothing and leaves `reports/` unchanged.
    """
    settings, client = open_registry()
    chosen = find(client, settings, version)

    from crossfold.reproduce.reproduce import reproduce
    from crossfold.runners.display import Display

    from .version_tables import reproduction_tables

    outcome = reproduce(Path.cwd(), chosen, Display(console, verbose=False), on=on, keep=keep)
    console.print()
    for part in reproduction_tables(outcome):
        console.print(part, soft_wrap=isinstance(part, Text) and not console.is_terminal)
    if outcome.kept:
        console.print(
            f"\nKept: {escape(str(outcome.kept))}. To delete it: `git worktree remove --force "
            f"{escape(str(outcome.kept))}/worktree`",
            soft_wrap=True,
        )
    if not outcome.same:
        raise typer.Exit(1)


def open_registry() -> "tuple[Settings, MlflowClient]":
    """Read the settings and connect to the registry that they name.

    Raises:
        UserError: the settings have mistakes, or there is no registry yet.
    """
    from crossfold.settings import load_settings

    settings = load_settings(PARAMS)
    if not settings.tracking.store:
        require_local_store()

    from crossfold.runners.local.mlflow_store import tracking_environment
    from crossfold.tracking import store

    os.environ.update(tracking_environment(Path.cwd(), settings))
    return settings, store.connect()


def find(client: "MlflowClient", settings: "Settings", text: str) -> "ModelVersion":
    """Look up a version by its number, its name and number, or an alias.

    Raises:
        UserError: the registry has no such version.
    """
    from crossfold.predict.model import find_version

    name = settings.tracking.model_name
    if text.isdigit():
        text = f"{name}/{text}"
    match = find_version(client, f"{name}{text}" if text.startswith("@") else text)
    return client.get_model_version(match.name, match.version)  # with all its aliases


def _rule(settings: "Settings") -> "Rule":
    from crossfold.registry.gate import Rule

    return Rule(settings.gate.min_macro_f1, settings.gate.margin)


def _require_signature(settings: "Settings", version: "ModelVersion") -> None:
    """Refuse a version without the signature that the settings ask for."""
    from crossfold.predict.signatures import required_key, verify_version

    if key := required_key(settings.registry, Path.cwd()):
        verify_version(version, key)


def _show_evidence(
    version: "ModelVersion", champion: "ModelVersion | None", decision: "Decision"
) -> None:
    from .version_tables import side_by_side

    console.print(side_by_side([version, champion] if champion else [version]))
    style = "green" if decision.passed else "red"
    finding = f"\n[{style}]{decision.verdict.capitalize()}:[/] {escape(decision.reason)}\n"
    console.print(finding, soft_wrap=not console.is_terminal)


def _show_champion(version: "ModelVersion", replaced: "ModelVersion | None") -> None:
    former = f"; version {replaced.version} is the former one" if replaced else ""
    console.print(f"{version.name} version {version.version} is champion{former}", soft_wrap=True)


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError("no terminal to ask for confirmation: add --yes")
    if not typer.confirm(question):
        fail("nothing was changed", 1)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
