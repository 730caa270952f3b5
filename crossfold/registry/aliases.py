"""Find and move the aliases of a registered model: challenger, champion, former champion."""

from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from crossfold.errors import UserError

CHAMPION = "champion"
CHALLENGER = "challenger"
FORMER_CHAMPION = "former-champion"


def find_champion(client: MlflowClient, model_name: str) -> ModelVersion | None:
    """Look up the version with the alias `champion`; None if no version has it."""
    number = client.get_registered_model(model_name).aliases.get(CHAMPION)
    return None if number is None else client.get_model_version(model_name, number)


def find_former_champion(client: MlflowClient, model_name: str) -> ModelVersion:
    """Look up the version with the alias `former-champion`.

    Raises:
        UserError: no version has the alias, or the champion itself has it.
    """
    aliases = client.get_registered_model(model_name).aliases
    number = aliases.get(FORMER_CHAMPION)
    if number is None:
        raise UserError(
            f"{model_name} has no former champion to roll back to. `crossfold models` lists the "
            "versions; `crossfold promote VERSION` makes one of them champion"
        )
    if number == aliases.get(CHAMPION):
        raise UserError(
            f"{model_name} version {number} is both champion and former champion, so there is no "
            "other version to roll back to. `crossfold promote VERSION` makes another one champion"
        )
    return client.get_model_version(model_name, number)


def is_champion(client: MlflowClient, model_name: str, version: ModelVersion | None) -> bool:
    """Check whether a version is currently the champion; for None, whether no champion exists."""
    champion = find_champion(client, model_name)
    return (champion and str(champion.version)) == (version and str(version.version))


def set_challenger(client: MlflowClient, model_name: str, number: str) -> None:
    """Give a version the alias `challenger`."""
    client.set_registered_model_alias(model_name, CHALLENGER, number)


def set_champion(client: MlflowClient, model_name: str, number: str) -> None:
    """Make a version champion and the old champion the former one; call in a promotion turn."""
    champion = find_champion(client, model_name)
    if champion and str(champion.version) == number:
        return
    if champion:
        client.set_registered_model_alias(model_name, FORMER_CHAMPION, str(champion.version))
    client.set_registered_model_alias(model_name, CHAMPION, number)
