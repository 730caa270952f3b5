"""The pipeline's graph: its steps, and the outputs that each step reads."""

from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_channel import PipelineArtifactChannel

from components.aggregate_cv import aggregate_cv
from components.evaluate_test import evaluate_test
from components.extract_features import extract_features
from components.fetch_data import fetch_data
from components.join_features import join_features
from components.register_model import register_model
from components.train_final import train_final
from components.train_fold import train_fold

from .resources import configure


def pipeline(num_shards: int = 1) -> GraphComponent:
    """Build the graph; `num_shards` steps share the images when features are extracted."""

    @dsl.pipeline(
        name="crossfold",
        display_name="Crossfold",
        description="Labelled images in, a cross-validated, registered classifier out.",
    )
    def crossfold(
        data_pointer: str,
        models_pointer: str,
        remote: str,
        test_fraction: float,
        folds: list[int],
        split_seed: int,
        max_skipped_fraction: float,
        architecture: str,
        weights: str,
        preprocessing: dict,
        precision: str,
        candidates: list,
        cuts: list,
        num_epochs: int,
        batch_size: int,
        training_seed: int,
        threads_alone: int,
        threads_folds: int,
        model_name: str,
        min_macro_f1: float,
        margin: float,
        lineage: dict,
    ) -> None:
        """Fetch, extract, train the folds, choose, train the final model, evaluate, register.

        Args:
            data_pointer: The text of data.dvc.
            models_pointer: The text of models.dvc.
            remote: Name of the DVC remote.
            test_fraction: Share of each class held out as the test split.
            folds: The folds, as numbers from 0 on; the images outside the test split are dealt to
                them.
            split_seed: Seed of the holdout and the folds.
            max_skipped_fraction: Share of the images that may be skipped as unusable.
            architecture: One of torchvision's classification networks.
            weights: Weights file under models/.
            preprocessing: Image size, mean, std, interpolation and crop in place of the network's
                own.
            precision: Number format of the computation, "float32" or "bfloat16".
            candidates: The sets of hyper-parameters to compare.
            cuts: The distinct parts of the network where the candidates' training begins.
            num_epochs: Epochs of each fit. A head is trained to convergence instead.
            batch_size: Images per optimizer step.
            training_seed: Seed of the initial weights and the order of the images.
            threads_alone: Processor threads of each step that computes alone.
            threads_folds: Processor threads of each train_fold.
            model_name: Name of the registered model.
            min_macro_f1: Lowest macro F1 on the test split with which a model may become champion.
            margin: How much macro F1 a challenger may lose and still count as "not worse".
            lineage: Origin of the run: settings, commit, images, runner.
        """
        fetched = fetch_data(
            data_pointer=data_pointer,
            models_pointer=models_pointer,
            remote=remote,
            weights=weights,
            test_fraction=test_fraction,
            folds=folds,
            seed=split_seed,
            max_skipped_fraction=max_skipped_fraction,
        )
        configure(fetched, "fetch_data")

        features = _features(
            num_shards,
            examples=fetched.outputs["examples"],
            backbone=fetched.outputs["backbone"],
            architecture=architecture,
            cuts=cuts,
            preprocessing=preprocessing,
            precision=precision,
            num_threads=threads_alone,
        )

        with dsl.ParallelFor(folds, name="folds") as fold:
            trained = train_fold(
                features=features,
                backbone=fetched.outputs["backbone"],
                architecture=architecture,
                fold=fold,
                candidates=candidates,
                num_epochs=num_epochs,
                batch_size=batch_size,
                seed=training_seed,
                precision=precision,
                num_threads=threads_folds,
            )
            configure(trained, "train_fold")

        aggregated = aggregate_cv(
            predictions=dsl.Collected(trained.outputs["predictions"]),
            architecture=architecture,
        )
        configure(aggregated, "aggregate_cv")

        final = train_final(
            features=features,
            backbone=fetched.outputs["backbone"],
            leaderboard=aggregated.outputs["leaderboard"],
            architecture=architecture,
            num_epochs=num_epochs,
            batch_size=batch_size,
            seed=training_seed,
            precision=precision,
            num_threads=threads_alone,
        )
        configure(final, "train_final")

        evaluated = evaluate_test(
            examples=fetched.outputs["examples"],
            model=final.outputs["model"],
            num_threads=threads_alone,
        )
        configure(evaluated, "evaluate_test")

        registered = register_model(
            examples=fetched.outputs["examples"],
            model=final.outputs["model"],
            leaderboard=aggregated.outputs["leaderboard"],
            evaluation=evaluated.outputs["evaluation"],
            model_name=model_name,
            min_macro_f1=min_macro_f1,
            margin=margin,
            lineage=lineage,
            models_pointer=models_pointer,
            num_threads=threads_alone,
        )
        configure(registered, "register_model")
        # The present champion is not among the inputs, so equal inputs may give another result.
        registered.set_caching_options(enable_caching=False)

    return crossfold


def _features(num_shards: int, **inputs: Any) -> PipelineArtifactChannel:
    """Extract features in one step, or in one step for each shard and one that joins them.

    Kubeflow's loops cannot pass a collected list to another loop, and a step costs a cluster more
    time than most extractions: hence neither a list of shards for the folds nor a loop over one
    shard.
    """
    if num_shards == 1:
        extracted = extract_features(**inputs, shard=0, num_shards=1)
        configure(extracted, "extract_features")
        return extracted.outputs["features"]
    with dsl.ParallelFor(list(range(num_shards)), name="shards") as shard:
        part = extract_features(**inputs, shard=shard, num_shards=num_shards)
        configure(part, "extract_features")
    joined = join_features(shards=dsl.Collected(part.outputs["features"]))
    configure(joined, "join_features")
    return joined.outputs["features"]
