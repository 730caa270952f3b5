"""Estimate the disk that each step's input and output files take."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from crossfold.data.disk_need import estimate_need
from crossfold.data.layouts.given_splits import test_share
from crossfold.data.layouts.listing import list_paths
from crossfold.imaging.preprocessing import read_geometries
from crossfold.settings import PIXELS
from crossfold.versioning import dvc

# Images differ in size, and the splits in their share of the large ones.
_MARGIN = 1.5
# Beside the data: Kubeflow's launcher, logs, the report, temporary files.
_BESIDE = 2**30
# A backbone's weights are in the features, in the model and in its export, or in the champion.
_COPIES_OF_WEIGHTS = 4
# A backbone with more weights needs more memory than a step has by default.
_MAX_WEIGHTS = 2 * 2**30


def estimate_storage(
    arguments: Mapping[str, Any], num_bytes_stored: int, paths: Iterable[str] = ()
) -> dict[str, int]:
    """Estimate the bytes of steps' files; none without the sizes in the pointers.

    Args:
        arguments: The pipeline's arguments.
        num_bytes_stored: The bytes of one image's values at all cuts of all backbones except
            `pixels`.
        paths: The paths of the data's files, as far as they are known here.
    """
    data = dvc.parse_pointer(arguments["data_pointer"])
    weights = dvc.parse_pointer(arguments["models_pointer"]).num_bytes
    if not (data.num_bytes and data.num_files and weights):
        return {}
    beside = _BESIDE + _COPIES_OF_WEIGHTS * min(weights, _MAX_WEIGHTS)
    geometries = read_geometries(arguments["squares"])
    need = estimate_need(data, _test_share(arguments, paths), geometries)
    of_image = num_bytes_stored * (1 + len(arguments["views"]))
    if any(PIXELS in part["cuts"] for part in arguments["parts"] or [arguments]):
        of_image += sum(3 * one.image_size**2 for one in geometries)
    features = data.num_files * of_image
    sizes = {
        "fetch_data": need.total,
        "evaluate_test": need.table,
        "register_model": need.table,
        "extract_features": need.table + features,
        "join_features": 2 * features,
        "train_fold": features,
        "diagnose_data": need.table + features,
        "train_final": features,
    }
    return {step: round(_MARGIN * size) + beside for step, size in sizes.items()}


def _test_share(arguments: Mapping[str, Any], paths: Iterable[str]) -> float | None:
    """Estimate the share of the test split; None if a CSV file may set it."""
    if json.loads(arguments["labels"]):
        return None
    given = test_share(list_paths(paths))
    return arguments["test_fraction"] if given is None else given
