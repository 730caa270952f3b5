"""Time the engines alone: matrix products, extraction, fine-tuning."""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import openvino
import safetensors.torch
import torch
from openvino import opset13

from crossfold.extraction.extract_features import extract_features
from crossfold.features.features_file import Features
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import determinism, openvino_engine
from crossfold.network.backbone import build_network
from crossfold.settings import HEAD, PIXELS, Backbone
from crossfold.training.feature_rows import FeatureRows
from crossfold.training.fit import trainable_suffix
from crossfold.training.loop import adamw, train_one_epoch
from crossfold.training.recipe import Recipe
from crossfold.weights.pretrained_network import pretrained_network

from .dataset import Workspace
from .machine import THREADS, Machine, Measured, Record, in_fresh_process

TRAINED = ("float32", "bfloat16")  # the number formats of torch
LITE0 = "timm/tf_efficientnet_lite0"
# A ResNet18 at 224×224: 1.814 G multiplications, each with an addition; twice that again backward.
FORWARD_GFLOP = 2 * 1.814
_STEP_GFLOP = 3 * FORWARD_GFLOP
_SIDE = 2048
_SECONDS = 0.5  # of each product


class EngineRound(Record):
    """Each measurement once, by precision."""

    peak_gflops: dict[str, Measured]  # of a product of two matrices, the best engine's
    fine_tuning_per_second: dict[str, Measured]  # images, when the whole ResNet18 is trained
    lite0_ms: dict[str, Measured]  # that an EfficientNet-Lite0's extraction takes, see Features

    def share_of_peak(self, precision: str) -> float:
        """The arithmetic of a step of fine-tuning, by what the processor reaches; in percent."""
        reached = self.fine_tuning_per_second[precision] * _STEP_GFLOP
        return 100 * reached / self.peak_gflops[precision]


class Engine(Record):
    """The rounds."""

    machine: Machine
    rounds: tuple[EngineRound, ...]


def measure_engine(
    workspace: Workspace, precisions: Sequence[str], num_rounds: int, machine: Machine
) -> Engine:
    """Take rounds; every measurement runs in a new process."""
    trained = [precision for precision in TRAINED if precision in precisions]
    rounds = []
    for number in range(num_rounds):
        rounds.append(
            EngineRound(
                peak_gflops={p: in_fresh_process(peak_gflops, p) for p in trained},
                fine_tuning_per_second={
                    p: in_fresh_process(fine_tuning_per_second, workspace, p) for p in trained
                },
                lite0_ms={
                    p: in_fresh_process(lite0_milliseconds, workspace, p) for p in precisions
                },
            )
        )
        print(f"engine, round {number + 1} of {num_rounds}: {rounds[-1]}", flush=True)
    return Engine(machine=machine, rounds=tuple(rounds))


def peak_gflops(precision: str) -> float:
    """Multiply two matrices in torch and in OpenVINO: the best rate of either."""
    torch.set_num_threads(THREADS)
    one, other = np.random.default_rng(0).standard_normal((2, _SIDE, _SIDE), np.float32)
    number = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = torch.from_numpy(one).to(number), torch.from_numpy(other).to(number)
    taken = opset13.parameter([_SIDE, _SIDE], np.float32)
    product = opset13.matmul(taken, opset13.constant(other), False, False)
    in_openvino = openvino_engine.compiled(openvino.Model([product], [taken]), precision, THREADS)
    fastest = min(_fastest(lambda: left @ right), _fastest(lambda: in_openvino(one)))
    return 2 * _SIDE**3 / fastest / 1e9


def _fastest(work: Callable[[], object]) -> float:
    work()
    end, seconds = perf_counter() + _SECONDS, []
    while perf_counter() < end:
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return min(seconds)


def lite0_milliseconds(workspace: Workspace, precision: str) -> float:
    """Extract the features of an EfficientNet-Lite0 with random weights, on the same squares."""
    with tempfile.TemporaryDirectory() as folder:
        weights, features = Path(folder) / "weights.safetensors", Path(folder) / "features"
        safetensors.torch.save_file(build_network(LITE0, 2, seed=0).state_dict(), weights)
        extract_features(
            examples=workspace.examples,
            weights=weights,
            backbone=Backbone(
                name="lite0",
                architecture=LITE0,
                weights=weights.name,
                image_size=workspace.workload.image_size,
                interpolation="bilinear",
                crop=1.0,
            ),
            cuts=[HEAD],
            precision=precision,
            margin=0,
            num_threads=THREADS,
            features=features,
        )
        (backbone,) = Features(features).backbones
    assert backbone.milliseconds is not None
    return backbone.milliseconds


def fine_tuning_per_second(workspace: Workspace, precision: str, num_steps: int = 3) -> float:
    """Train the whole network on one batch, again and again: images per second, the median."""
    determinism.prepare(THREADS)
    workload = workspace.workload
    shape = (workload.fit.batch_size, workload.image_size, workload.image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    every = np.arange(len(pixels))
    rows = FeatureRows(pixels, every % 2, every)
    recipe = Recipe(
        workload.candidate.model_copy(update={"train_from": PIXELS, "learning_rate": 1e-4}),
        workload.fit.model_copy(update={"precision": precision}),
    )
    network = pretrained_network(workload.backbone.architecture, workspace.weights, 2, seed=0)
    suffix = trainable_suffix(network, recipe, Preprocessing(workload.image_size))
    optimizer = adamw(suffix, recipe)

    def step_seconds() -> float:
        start = perf_counter()
        train_one_epoch(suffix, optimizer, rows, recipe, epoch=1)
        return perf_counter() - start

    step_seconds()  # the first one chooses kernels
    return len(pixels) / statistics.median(step_seconds() for _ in range(num_steps))
