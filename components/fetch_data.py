"""The step that brings data and weights from DVC and fixes the splits."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Model, Output


@dsl.component(base_image="crossfold-data", install_kfp_package=False)
def fetch_data(
    data_pointer: str,
    models_pointer: str,
    remote: str,
    weights: str,
    test_fraction: float,
    folds: list,
    seed: int,
    max_skipped_fraction: float,
    examples: Output[Dataset],
    backbone: Output[Model],
    data_page: Output[HTML],
) -> None:
    """Pull images and weights through DVC, check every image, fix the holdout and the folds.

    Args:
        data_pointer: The text of data.dvc: which images, by their hash.
        models_pointer: The text of models.dvc.
        remote: The DVC remote's name; its address comes from .dvc/config or the environment.
        weights: The weights' file name under models/.
        test_fraction: Share of each class that is held out.
        folds: The folds that the rest is dealt to.
        seed: Decides which image goes where.
        max_skipped_fraction: Share of the images that may be skipped because they are unusable.
        examples: One table with each image's bytes, label, split and fold.
        backbone: The weights' file.
        data_page: The data to look at: counts, samples, remarks, near duplicates.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("fetch_data", examples.path) as run:
        from crossfold.data.fetch import fetch_data

        fetched = fetch_data(
            data_pointer=data_pointer,
            models_pointer=models_pointer,
            remote=remote,
            weights=weights,
            test_fraction=test_fraction,
            num_folds=len(folds),
            seed=seed,
            max_skipped_fraction=max_skipped_fraction,
            examples=Path(examples.path),
            backbone=Path(backbone.path),
            data_page=Path(data_page.path),
        )
        run.log_metrics(
            {
                "num_images": fetched.num_images,
                "num_test": fetched.num_test,
                "num_classes": len(fetched.classes),
                "num_skipped": len(fetched.skipped),
                "num_near_duplicates": fetched.near_duplicates.pairs,
                "num_near_duplicates_in_test": fetched.near_duplicates.leaked,
            }
        )
        run.log_artifact(Path(data_page.path), "data.html")
        run.log_dataset("data", fetched.data_hash, remote)
        run.log_dataset("models", fetched.models_hash, remote)
