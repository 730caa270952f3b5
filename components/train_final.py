"""Step: train the chosen candidate on every image outside the test split."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def train_final(
    features: Input[Dataset],
    predictions: Input[list[Artifact]],
    leaderboard: Input[Metrics],
    num_epochs: int,
    batch_size: int,
    seed: int,
    portable: bool,
    class_weights: str,
    views: list,
    test_time: bool,
    precision: str,
    num_threads: int,
    model: Output[Model],
) -> None:
    """Train the chosen candidate on every image outside the test split.

    Args:
        features: Stored features, pretrained weights, labels and folds.
        predictions: Out-of-fold probabilities and results of each fold.
        leaderboard: Results of cross-validation, with the chosen candidate.
        num_epochs: Epochs of the fit, as in the folds. A head is trained to convergence instead.
        batch_size: Images per optimizer step.
        seed: Seed of the initial weights and the order of the images.
        portable: Use only arithmetic that is the same on every x86-64 processor with AVX2.
        class_weights: Weights of the classes in the loss, "none" or "balanced".
        views: Kinds of views that are trained on beside the images themselves.
        test_time: Whether predictions are means over the image and its views.
        precision: Number format of the computation, "float32", "bfloat16", "int8" or "auto".
        num_threads: Processor threads.
        model: Folder with the whole network: its weights, the exported graph, and the scores of the
            training images for prediction sets.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("train_final", model.path) as run:
        from crossfold.network import GRAPH_FILE, NETWORK_FILE, SETS_FILE, determinism
        from crossfold.records import ClassWeights
        from crossfold.training.recipe import FitSettings
        from crossfold.training.train_final import train_final

        folder = Path(model.path)
        folder.mkdir(exist_ok=True)
        scores = train_final(
            features=Path(features.path),
            predictions=[Path(artifact.path) for artifact in predictions],
            leaderboard=Path(leaderboard.path),
            settings=FitSettings(
                num_epochs=num_epochs,
                batch_size=batch_size,
                seed=seed,
                portable=portable,
                class_weights=ClassWeights(class_weights),
                views=tuple(views),
                test_time=test_time,
                precision=precision,
            ),
            num_threads=num_threads,
            model=folder / NETWORK_FILE,
            exported=folder / GRAPH_FILE,
            sets=folder / SETS_FILE,
        )
        environment = determinism.describe()
        model.metadata.update(environment)  # register_model makes them tags of the version
        run.log_metrics({f"train_{name}": value for name, value in scores.items()})
        run.set_tags(environment)
