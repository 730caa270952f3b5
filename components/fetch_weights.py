"""Step: pull a backbone's pretrained weights through DVC."""

from kfp import dsl
from kfp.dsl import Model, Output


@dsl.component(base_image="crossfold-data", install_kfp_package=False)
def fetch_weights(
    part: str,
    weights: str,
    weights_pointer: str,
    remote: str,
    weights_file: Output[Model],
) -> None:
    """Pull a backbone's pretrained weights through DVC.

    Args:
        part: Part of the extraction: the backbone's name, with the shard if there are several.
        weights: Weights file under models/.
        weights_pointer: DVC's pointer to that file, or the text of models.dvc.
        remote: The DVC remote's name; its address comes from .dvc/config or the environment.
        weights_file: The weights file.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("fetch_weights", weights_file.path, part) as run:
        from crossfold.data.fetch import fetch_weights

        models_hash = fetch_weights(
            pointer=weights_pointer,
            weights=weights,
            remote=remote,
            weights_file=Path(weights_file.path),
        )
        run.log_dataset("models", models_hash, remote)
