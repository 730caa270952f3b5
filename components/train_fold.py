"""Step: train every candidate on all folds except one."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def train_fold(
    features: Input[Dataset],
    fold: int,
    candidates: list,
    num_epochs: int,
    batch_size: int,
    seed: int,
    portable: bool,
    class_weights: str,
    views: list,
    test_time: bool,
    precision: str,
    num_threads: int,
    predictions: Output[Artifact],
) -> None:
    """Train every candidate on all folds except one, and predict that one.

    Args:
        features: Stored features, pretrained weights, labels and folds.
        fold: The fold to predict.
        candidates: Sets of hyper-parameters to compare.
        num_epochs: Epochs of each fit. A head is trained to convergence instead.
        batch_size: Images per optimizer step.
        seed: Seed of the initial weights and the order of the images.
        portable: Use only arithmetic that is the same on every x86-64 processor with AVX2.
        class_weights: Weights of the classes in the loss, "none" or "balanced".
        views: Kinds of views that are trained on beside the images themselves.
        test_time: Whether predictions are means over the image and its views.
        precision: Number format of the computation, "float32", "bfloat16", "int8" or "auto".
        num_threads: Processor threads.
        predictions: Out-of-fold probabilities and results.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("train_fold", predictions.path, fold) as run:
        from crossfold.network import determinism
        from crossfold.records import ClassWeights
        from crossfold.settings import Candidate
        from crossfold.training.candidate_runs import log_candidates
        from crossfold.training.recipe import FitSettings
        from crossfold.training.train_fold import train_fold

        settings = FitSettings(
            num_epochs=num_epochs,
            batch_size=batch_size,
            seed=seed,
            portable=portable,
            class_weights=ClassWeights(class_weights),
            views=tuple(views),
            test_time=test_time,
            precision=precision,
        )
        results = train_fold(
            features=Path(features.path),
            fold=fold,
            candidates=[Candidate(**values) for values in candidates],
            settings=settings,
            num_threads=num_threads,
            predictions=Path(predictions.path),
        )
        environment = determinism.describe()
        run.set_tags(environment)
        log_candidates(run, results, params={**settings.model_dump(mode="json"), **environment})
