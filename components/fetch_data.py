"""Step: pull the images through DVC, check and split them."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Output


@dsl.component(base_image="crossfold-data", install_kfp_package=False)
def fetch_data(
    data_pointer: str,
    remote: str,
    test_fraction: float,
    folds: list,
    seed: int,
    max_skipped_fraction: float,
    labels: str,
    groups: str,
    tie_near_duplicates: bool,
    exclude: str,
    relabel: str,
    squares: list,
    examples: Output[Dataset],
    data_page: Output[HTML],
) -> None:
    """Pull the images through DVC, check every image, assign holdout and folds.

    Args:
        data_pointer: The text of data.dvc, which identifies the images by their hash.
        remote: The DVC remote's name; its address comes from .dvc/config or the environment.
        test_fraction: Share of each class held out as the test split.
        folds: The folds, as numbers from 0 on; the images outside the test split are dealt to them.
        seed: Seed of the holdout and the folds.
        max_skipped_fraction: Share of the images that may be skipped as unusable.
        labels: Name of the CSV file in the data that lists the images with their labels, as JSON;
            null if the folders are the classes.
        groups: How to find an image's group (patient, plant, camera), as JSON: "folder",
            {"pattern": REGULAR EXPRESSION}, {"file": CSV FILE}, or null.
        tie_near_duplicates: Whether near duplicates stay on one side of every split.
        exclude: Name of the CSV file in the data that lists images to leave out, as JSON, or null.
        relabel: Name of the CSV file in the data that gives images another label, as JSON, or null.
        squares: The geometries of the squares that the backbones take: size, interpolation, crop
            and reducing gap of each.
        examples: Table with each training image's squares, each test image's file, label, split,
            fold and group.
        data_page: Page about the data: counts, samples, remarks, near duplicates.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("fetch_data", examples.path) as run:
        from crossfold.data.fetch import fetch_data
        from crossfold.data.grouping.rule import read_file_name, read_rule
        from crossfold.data.layouts.corrections import CorrectionFiles
        from crossfold.data.splits import SplitSettings
        from crossfold.imaging.preprocessing import read_geometries

        fetched = fetch_data(
            data_pointer=data_pointer,
            remote=remote,
            settings=SplitSettings(
                num_folds=len(folds),
                test_fraction=test_fraction,
                seed=seed,
                max_skipped_fraction=max_skipped_fraction,
                groups=read_rule(groups),
                tie_near_duplicates=tie_near_duplicates,
            ),
            labels=read_file_name(labels),
            corrections=CorrectionFiles(read_file_name(exclude), read_file_name(relabel)),
            geometries=read_geometries(squares),
            examples=Path(examples.path),
            data_page=Path(data_page.path),
        )
        run.log_metrics(
            {
                "num_images": fetched.num_images,
                "num_test": fetched.num_test,
                "num_classes": len(fetched.classes),
                "num_skipped": len(fetched.skipped),
                **({"num_groups": fetched.groups.number} if fetched.groups else {}),
                "num_near_duplicates": fetched.near_duplicates.pairs,
                "num_near_duplicates_in_test": fetched.near_duplicates.leaked,
            }
        )
        run.log_artifact(Path(data_page.path), "data.html")
        run.log_dataset("data", fetched.data_hash, remote)
