"""The pipeline's graph: its steps, and the outputs that each step reads."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_channel import PipelineArtifactChannel

from components.aggregate_cv import aggregate_cv
from components.diagnose_data import diagnose_data
from components.evaluate_test import evaluate_test
from components.extract_features import extract_features
from components.fetch_data import fetch_data
from components.fetch_weights import fetch_weights
from components.join_features import join_features
from components.register_model import register_model
from components.train_final import train_final
from components.train_fold import train_fold

from .resources import RESOURCES, Resources, configure

# Extractions at a time on a cluster; each has its own pod, with its own copy of the images.
MAX_EXTRACTIONS = 10


def pipeline(
    *, several_parts: bool = False, resources: Mapping[str, Resources] = RESOURCES
) -> GraphComponent:
    """Build the graph, in which features are extracted by one step, or in several parts.

    Args:
        several_parts: A part is one of several backbones, or one of several shards of the images,
            or both.
        resources: The resources of each step, by its name.
    """

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
        labels: str,
        groups: str,
        tie_near_duplicates: bool,
        exclude: str,
        relabel: str,
        squares: list,
        part: str,
        backbone: dict,
        weights: str,
        weights_pointer: str,
        cuts: list,
        shard: int,
        num_shards: int,
        parts: list[dict],
        precision: str,
        int8_margin: float,
        candidates: list,
        choice: str,
        portable: bool,
        class_weights: str,
        num_epochs: int,
        batch_size: int,
        training_seed: int,
        views: list,
        test_time: bool,
        threads_alone: int,
        threads_folds: int,
        diagnosis: dict,
        model_name: str,
        min_macro_f1: float,
        margin: float,
        signature_key: str,
        lineage: dict,
    ) -> None:
        """Fetch, extract, train the folds, choose, diagnose, train finally, evaluate, register.

        Args:
            data_pointer: The text of data.dvc.
            models_pointer: The text of models.dvc.
            remote: Name of the DVC remote.
            test_fraction: Share of each class held out as the test split.
            folds: The folds, as numbers from 0 on; the images outside the test split are dealt to
                them.
            split_seed: Seed of the holdout and the folds.
            max_skipped_fraction: Share of the images that may be skipped as unusable.
            labels: Name of the CSV file in the data that lists the images with their labels, as
                JSON; null if the folders are the classes.
            groups: How to find an image's group (patient, plant, camera), as JSON: "folder",
                {"pattern": REGULAR EXPRESSION}, {"file": CSV FILE}, or null.
            tie_near_duplicates: Whether near duplicates stay on one side of every split.
            exclude: Name of the CSV file in the data that lists images to leave out, as JSON, or
                null.
            relabel: Name of the CSV file in the data that gives images another label, as JSON, or
                null.
            squares: The distinct geometries of the squares that the backbones take.
            part: Name of the only backbone. This parameter and those up to num_shards are empty
                if there are several parts.
            backbone: The backbone's name, architecture and weights file, and changes to its
                preprocessing.
            weights: Its weights file under models/.
            weights_pointer: DVC's pointer to that file, or the text of models.dvc.
            cuts: The distinct places where the candidates' training begins.
            shard: The shard of the images, 0.
            num_shards: The number of shards, 1.
            parts: These parameters of each backbone and shard, if there are several.
            precision: Number format of the computation, "float32", "bfloat16", "int8" or "auto".
            int8_margin: How much macro F1 "auto" may lose by int8; 0 for the others.
            candidates: The sets of hyper-parameters to compare.
            choice: "best", or "smallest": the fewest parameters within one standard error.
            portable: Train heads with arithmetic that is the same on every x86-64 processor with
                AVX2.
            class_weights: Weights of the classes in the loss, "none" or "balanced".
            num_epochs: Epochs of each fit. A head is trained to convergence instead.
            batch_size: Images per optimizer step.
            training_seed: Seed of the initial weights and the order of the images.
            views: Kinds of views that are trained on beside the images themselves.
            test_time: Whether predictions are means over the image and its views.
            threads_alone: Processor threads of each step that computes alone.
            threads_folds: Processor threads of each train_fold.
            diagnosis: What to compute about the images and the scores.
            model_name: Name of the registered model.
            min_macro_f1: Lowest macro F1 on the test split with which a model may become champion.
            margin: How much macro F1 a challenger may lose and still count as "not worse".
            signature_key: The public key, in PEM, without whose signature no version becomes
                champion; as JSON, null for none.
            lineage: Origin of the run: settings, commit, images, runner.
        """
        fetched = fetch_data(
            data_pointer=data_pointer,
            remote=remote,
            test_fraction=test_fraction,
            folds=folds,
            seed=split_seed,
            max_skipped_fraction=max_skipped_fraction,
            labels=labels,
            groups=groups,
            tie_near_duplicates=tie_near_duplicates,
            exclude=exclude,
            relabel=relabel,
            squares=squares,
        )
        configure(fetched, resources["fetch_data"])

        common = {
            "examples": fetched.outputs["examples"],
            "remote": remote,
            "views": views,
            "precision": precision,
            "margin": int8_margin,
            "num_threads": threads_alone,
        }
        if several_parts:
            with dsl.ParallelFor(parts, parallelism=MAX_EXTRACTIONS, name="parts") as one:
                extracted = _extract(
                    resources,
                    **common,
                    part=one.part,
                    backbone=one.backbone,
                    weights=one.weights,
                    weights_pointer=one.weights_pointer,
                    cuts=one.cuts,
                    shard=one.shard,
                    num_shards=one.num_shards,
                )
            # Kubeflow's loops cannot pass a collected list to another loop.
            joined = join_features(parts=dsl.Collected(extracted))
            configure(joined, resources["join_features"])
            features = joined.outputs["features"]
        else:  # without a loop: a step costs a cluster more time than most extractions
            features = _extract(
                resources,
                **common,
                part=part,
                backbone=backbone,
                weights=weights,
                weights_pointer=weights_pointer,
                cuts=cuts,
                shard=shard,
                num_shards=num_shards,
            )

        with dsl.ParallelFor(folds, name="folds") as fold:
            trained = train_fold(
                features=features,
                fold=fold,
                candidates=candidates,
                portable=portable,
                class_weights=class_weights,
                num_epochs=num_epochs,
                batch_size=batch_size,
                seed=training_seed,
                views=views,
                test_time=test_time,
                precision=precision,
                num_threads=threads_folds,
            )
            configure(trained, resources["train_fold"])

        aggregated = aggregate_cv(
            predictions=dsl.Collected(trained.outputs["predictions"]),
            choice=choice,
        )
        configure(aggregated, resources["aggregate_cv"])

        # Beside the final fit: what it finds changes no model.
        diagnosed = diagnose_data(
            examples=fetched.outputs["examples"],
            features=features,
            predictions=dsl.Collected(trained.outputs["predictions"]),
            leaderboard=aggregated.outputs["leaderboard"],
            settings=diagnosis,
            class_weights=class_weights,
            num_threads=threads_alone,
        )
        configure(diagnosed, resources["diagnose_data"])

        final = train_final(
            features=features,
            predictions=dsl.Collected(trained.outputs["predictions"]),
            leaderboard=aggregated.outputs["leaderboard"],
            portable=portable,
            class_weights=class_weights,
            num_epochs=num_epochs,
            batch_size=batch_size,
            seed=training_seed,
            views=views,
            test_time=test_time,
            precision=precision,
            num_threads=threads_alone,
        )
        configure(final, resources["train_final"])

        evaluated = evaluate_test(
            examples=fetched.outputs["examples"],
            model=final.outputs["model"],
            num_threads=threads_alone,
        )
        configure(evaluated, resources["evaluate_test"])

        registered = register_model(
            examples=fetched.outputs["examples"],
            model=final.outputs["model"],
            leaderboard=aggregated.outputs["leaderboard"],
            evaluation=evaluated.outputs["evaluation"],
            diagnosis=diagnosed.outputs["diagnosis"],
            model_name=model_name,
            min_macro_f1=min_macro_f1,
            margin=margin,
            signature_key=signature_key,
            lineage=lineage,
            models_pointer=models_pointer,
            num_threads=threads_alone,
        )
        configure(registered, resources["register_model"])
        # The present champion is not among the inputs, so equal inputs may give another result.
        registered.set_caching_options(enable_caching=False)

    return crossfold


def _extract(
    resources: Mapping[str, Resources],
    *,
    examples: PipelineArtifactChannel,
    part: Any,
    weights: Any,
    weights_pointer: Any,
    remote: Any,
    **inputs: Any,
) -> PipelineArtifactChannel:
    """Fetch a backbone's weights and extract its features; other weights change nothing here."""
    fetched = fetch_weights(
        part=part, weights=weights, weights_pointer=weights_pointer, remote=remote
    )
    configure(fetched, resources["fetch_weights"])
    extracted = extract_features(
        examples=examples,
        weights=fetched.outputs["weights_file"],
        part=part,
        **inputs,
    )
    configure(extracted, resources["extract_features"])
    return extracted.outputs["features"]
