"""From what the paths of one round measured to the figures; medians and minima over rounds."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.adapter import BFLOAT16, FLOAT32
from benchmarks.workload import MAIN, Passes, naive_passes


def passes(results: dict[str, Any]) -> Passes:
    """Return the naive loop's passes over the images of a round."""
    ours = results[f"ours_{FLOAT32}"]
    return naive_passes(ours["num_train"], ours["num_test"], MAIN)


def naive_seconds(count: Passes, slice_of_it: dict[str, float]) -> float:
    """Extrapolate a slice, in images per second, to the whole loop, in seconds."""
    without_gradients = (count.validation + count.test) / slice_of_it["validation"]
    return count.training / slice_of_it["training"] + without_gradients


def of_round(results: dict[str, Any], threads: int) -> dict[str, float]:
    """Return the figures of one round; a ratio is of paths of this very round."""
    count, peak = passes(results), results["peak"]
    first = results[f"ours_{FLOAT32}"]
    num_images = first["num_train"] + first["num_test"]
    decoding = num_images * results["naive"]["decoding_seconds"] / threads
    naive = naive_seconds(count, results["naive"]) + decoding
    plain = results["plain"]["seconds"]
    found = {
        "peak_float32": peak[FLOAT32],
        "peak_bfloat16": peak[BFLOAT16],
        "seconds_naive": naive,
        "seconds_naive_files": naive_seconds(count, results["naive_files"]),
        "seconds_plain": plain,
        "counting": naive / plain,
        "one_image_p50": results["one_image"]["p50"],
        "one_image_p99": results["one_image"]["p99"],
        "one_image_first": results["one_image"]["first"],
    }
    for precision in (FLOAT32, BFLOAT16):
        found |= _of_precision(results, precision, found)
    return found


def _of_precision(
    results: dict[str, Any], precision: str, found: dict[str, float]
) -> dict[str, float]:
    figures: dict[str, float] = {}
    if ours := results.get(f"ours_{precision}"):
        seconds = ours["seconds"]
        figures |= {
            f"seconds_{precision}": seconds,
            f"ratio_{precision}": found["seconds_naive"] / seconds,
            f"evaluating_more_{precision}": ours["evaluating_more_seconds"],
            f"ratio_whole_{precision}": found["seconds_naive"]
            / (seconds + ours["evaluating_more_seconds"]),
            f"ratio_files_{precision}": found["seconds_naive_files"] / seconds,
            f"engine_ratio_{precision}": found["seconds_plain"] / seconds,
            f"photos_{precision}": ours["num_train"] / ours["parts"]["extract"],
        }
    if engine := results.get(f"engine_{precision}"):
        figures |= {
            f"share_{precision}": engine["gflops"] / found[f"peak_{precision}"],
            f"images_{precision}": engine["images_per_second"],
            f"build_{precision}": engine["build_seconds"],
            f"first_batch_{precision}": engine["first_batch_seconds"],
        }
    if step := results.get(f"fine_tuning_{precision}"):
        figures[f"fine_tuning_images_{precision}"] = step["images_per_second"]
        if precision == FLOAT32:
            figures["fine_tuning_share"] = step["gflops"] / found["peak_float32"]
        else:
            figures["fine_tuning_gain"] = step["gflops"] / results["fine_tuning_float32"]["gflops"]
    return figures


def over_rounds(rounds: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Return each figure's value in every round, in the order of the rounds."""
    return {name: [figures[name] for figures in rounds] for name in rounds[0]}


def median_and_minimum(values: Sequence[float]) -> tuple[float, float]:
    """Return the two figures that the page states."""
    return statistics.median(values), min(values)
