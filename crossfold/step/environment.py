"""The environment that other programs get: pip, git, docker, kubectl."""

import os

# Prefixes of variables that only Crossfold's commands and steps may see, such as logins of MLflow
# and DVC's remote.
_OURS = ("MLFLOW_", "CROSSFOLD_")


def for_other_programs() -> dict[str, str]:
    """Copy the environment for another program, without Crossfold's and MLflow's variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
