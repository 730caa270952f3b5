"""The pipeline as a graph, with its resources and retries."""

import json
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler, dsl
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_channel import PipelineArtifactChannel
from kfp.dsl.pipeline_task import PipelineTask

from components.aggregate_cv import aggregate_cv
from components.evaluate_test import evaluate_test
from components.extract_features import extract_features
from components.extract_shard import extract_shard
from components.fetch_data import fetch_data
from components.join_features import join_features
from components.register_model import register_model
from components.train_final import train_final
from components.train_fold import train_fold
from crossfold.infra.images import DATA, TRAIN, code_name, image_name
from crossfold.settings import Settings
from pipelines import resources

# Cores that a step requests on a small cluster: of two, Kubernetes and manifests/small leave 0.9.
SMALL = 0.5
_EXTRACTION: dict[str, Any] = {"cpu": (1, 4), "memory": ("2Gi", "4Gi")}


def _configure(
    task: PipelineTask,
    role: str,
    display_name: str,
    *,
    cpu: tuple[float, float],
    memory: tuple[str, str],
) -> None:
    """Give a task its image, its name, its requests and limits (cores, bytes) and its retries."""
    task.set_container_image(image_name(role))
    task.set_display_name(display_name)
    task.set_cpu_request(str(cpu[0]))
    task.set_cpu_limit(str(cpu[1]))
    task.set_memory_request(memory[0])
    task.set_memory_limit(memory[1])
    # Every step may be repeated: its outputs are overwritten, its MLflow run is found again.
    task.set_retry(num_retries=2, backoff_duration="5s", backoff_factor=2)
    resources.configure(task)


def pipeline(num_shards: int = 1) -> GraphComponent:
    """Return the graph; `num_shards` steps share the images when features are extracted."""

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
        image_size: int,
        architecture: str,
        weights: str,
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
        """Fetch, extract, train the folds, choose, train the choice, evaluate, register.

        Args:
            data_pointer: The text of data.dvc.
            models_pointer: The text of models.dvc.
            remote: Name of the DVC remote.
            test_fraction: Share of each class that is held out.
            folds: The folds that the rest is dealt to, as numbers from 0 on.
            split_seed: Decides which image goes where.
            max_skipped_fraction: Share of the images that may be skipped because they are unusable.
            image_size: Side of the square that images are scaled to, in pixels.
            architecture: A classification network of torchvision.
            weights: The weights' file name under models/.
            precision: What the network is computed in, "float32" or "bfloat16".
            candidates: The sets of hyper-parameters to compare.
            cuts: The distinct places where the candidates' training begins.
            num_epochs: Epochs of each fit but a head's.
            batch_size: Images per optimizer step.
            training_seed: Of the classifier's initial weights and the order of the images.
            threads_alone: Processor threads of the steps that have the machine to themselves.
            threads_folds: Processor threads of each train_fold.
            model_name: The registered model's name.
            min_macro_f1: The floor below which no model becomes champion.
            margin: The loss of macro F1 against the champion that counts as none.
            lineage: Where the run comes from: settings, commit, images.
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
        _configure(fetched, DATA, "Fetch data", cpu=(1, 2), memory=("1Gi", "2Gi"))
        resources.give_remote(fetched)

        features = _features(
            num_shards,
            examples=fetched.outputs["examples"],
            backbone=fetched.outputs["backbone"],
            architecture=architecture,
            cuts=cuts,
            image_size=image_size,
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
            _configure(trained, TRAIN, "Train fold", cpu=(1, 2), memory=("2Gi", "4Gi"))

        aggregated = aggregate_cv(
            predictions=dsl.Collected(trained.outputs["predictions"]),
            architecture=architecture,
        )
        _configure(
            aggregated, TRAIN, "Aggregate cross-validation", cpu=(0.5, 1), memory=("1Gi", "2Gi")
        )

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
        _configure(final, TRAIN, "Train final model", cpu=(1, 2), memory=("2Gi", "4Gi"))

        evaluated = evaluate_test(
            examples=fetched.outputs["examples"],
            model=final.outputs["model"],
            num_threads=threads_alone,
        )
        _configure(evaluated, TRAIN, "Evaluate on test split", cpu=(1, 4), memory=("2Gi", "4Gi"))

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
        _configure(registered, TRAIN, "Register model", cpu=(1, 4), memory=("2Gi", "4Gi"))
        # The present champion is in no input, so an equal call need not have an equal answer.
        registered.set_caching_options(enable_caching=False)

    return crossfold


def _features(num_shards: int, **inputs: Any) -> PipelineArtifactChannel:
    """Extract features in one step, or in one step for each shard and one that joins them.

    Kubeflow's loops hand a collected list to no other loop, and a step costs a cluster more time
    than most extractions: hence neither a list of shards for the folds nor a loop over one shard.
    """
    if num_shards == 1:
        extracted = extract_features(**inputs)
        _configure(extracted, TRAIN, "Extract features", **_EXTRACTION)
        return extracted.outputs["features"]
    with dsl.ParallelFor(list(range(num_shards)), name="shards") as shard:
        part = extract_shard(**inputs, shard=shard, num_shards=num_shards)
        _configure(part, TRAIN, "Extract shard", **_EXTRACTION)
    joined = join_features(shards=dsl.Collected(part.outputs["features"]))
    _configure(joined, TRAIN, "Join features", cpu=(0.5, 1), memory=("1Gi", "2Gi"))
    return joined.outputs["features"]


def arguments(settings: Settings, root: Path, lineage: dict[str, Any]) -> dict[str, Any]:
    """Return the pipeline's arguments for settings and the DVC pointers in `root`."""
    return {
        "data_pointer": _pointer(root / "data.dvc"),
        "models_pointer": _pointer(root / "models.dvc"),
        "remote": settings.data.remote,
        "test_fraction": settings.data.test_fraction,
        "folds": list(range(settings.data.num_folds)),
        "split_seed": settings.data.seed,
        "max_skipped_fraction": settings.data.max_skipped_fraction,
        "image_size": settings.data.image_size,
        "architecture": settings.model.architecture,
        "weights": settings.model.weights,
        "precision": settings.model.precision,
        "candidates": [
            candidate.model_dump(exclude_none=True) for candidate in settings.candidates
        ],
        "cuts": settings.cuts,
        "num_epochs": settings.training.num_epochs,
        "batch_size": settings.training.batch_size,
        "training_seed": settings.training.seed,
        "threads_alone": settings.threads.alone,
        "threads_folds": settings.threads.folds,
        "model_name": settings.tracking.model_name,
        "min_macro_f1": settings.gate.min_macro_f1,
        "margin": settings.gate.margin,
        "lineage": lineage,
    }


def _pointer(path: Path) -> str:
    """Return a DVC pointer's content in one line: a default with line breaks is cut by kfp."""
    return json.dumps(yaml.safe_load(path.read_text()), sort_keys=True)


def compile_pipeline(
    path: Path,
    defaults: dict[str, Any],
    *,
    num_shards: int = 1,
    registry: str | None = None,
    caching: bool = True,
    retries: bool = True,
    small: bool = False,
    processes: bool = False,
) -> None:
    """Write the pipeline as YAML that every runner takes, with defaults for its parameters.

    Equal calls write equal bytes: the comment in which kfp repeats the defaults, some of them in
    an order that differs from process to process, does not survive the reading.

    Args:
        path: The file to write.
        defaults: The pipeline's arguments.
        num_shards: How many steps share the images when features are extracted.
        registry: Where a cluster pulls the images from; None: they are there by their names.
        caching: Whether any step may be answered from the cache. Kubeflow takes a word on that
            with a run too, but does not hold to it inside of loops.
        retries: Whether a failed step is repeated. Kubeflow's local runner would wait 15 s before
            it gave up.
        small: Whether a step requests no more than fits a cluster of two cores.
        processes: Whether steps are processes of this machine, whose cache must not depend on the
            arguments that images were built with.
    """
    code = {image_name(role): code_name(role) for role in (DATA, TRAIN)}
    compiler.Compiler().compile(pipeline(num_shards), str(path), pipeline_parameters=defaults)
    spec, platforms = yaml.safe_load_all(path.read_text())
    for executor in spec["deploymentSpec"]["executors"].values():
        container = executor["container"]
        if processes:
            container["image"] = code[container["image"]]
        if registry:
            container["image"] = f"{registry.rstrip('/')}/{container['image']}"
        if small:
            container["resources"] |= {"cpuRequest": SMALL, "resourceCpuRequest": str(SMALL)}
    for component in (spec["root"], *spec["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            if not caching:
                task["cachingOptions"] = {}
            if not retries:
                task.pop("retryPolicy", None)
    path.write_text(yaml.safe_dump_all([spec, platforms], allow_unicode=True))
