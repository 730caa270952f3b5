"""`make benchmark`: rounds of all paths, start-up, the page; status 1 if a ratio is far off."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import adapter, figures, machine, report, startup
from benchmarks.adapter import BFLOAT16, FLOAT32
from benchmarks.dataset import Workspace, prepare
from benchmarks.outcome import Outcome, num_different, require_close, require_same
from benchmarks.paths import in_every_round
from benchmarks.rounds import Round, collect, run_path, run_round
from benchmarks.workload import CHECK, pipeline_passes


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    options = _options()
    threads = machine.num_cores()
    about = report.environment(threads)
    bfloat16 = machine.computes_bfloat16(about["flags"])
    say(f"{about['processor']}, {threads} threads: {', '.join(about['flags'])}")
    say(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    with tempfile.TemporaryDirectory(prefix="crossfold-benchmark-") as folder:
        workspace = Workspace(Path(folder), threads)
        say("writing the photos")
        prepare(workspace)
        say("running the naive loop whole, on the small set")
        check = _check(workspace, bfloat16=bfloat16)
        names = in_every_round(bfloat16=bfloat16)
        kept, dropped = collect(
            lambda: _checked(run_round(names, workspace)), options.rounds, options.max_noise, say
        )
        say("running the sample, to see what starting costs")
        started = startup.measure(workspace.folder)
    results = report.save(
        {
            "environment": about,
            "rounds": _summary(kept, dropped, options),
            "figures": figures.over_rounds([figures.of_round(r.results, threads) for r in kept]),
            "check": check | _counts(kept),
            "startup": started,
        }
    )
    say(f"\n{report.render(results)}")
    if failed := report.failures(results):
        sys.exit("\n".join(failed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="undisturbed rounds to run (5)")
    parser.add_argument(
        "--max-noise",
        type=float,
        default=0.2,
        metavar="CORES",
        help="drop a round in which other processes used more (0.2)",
    )
    return parser.parse_args()


def _check(workspace: Workspace, *, bfloat16: bool) -> dict[str, Any]:
    """Run naive loop and pipeline on the small set; refuse to go on if they differ."""
    naive = run_path("check_naive", workspace)
    expected = Outcome.from_json(naive["outcome"])
    found = run_path(f"check_ours_{FLOAT32}", workspace)
    require_same(expected, Outcome.from_json(found["outcome"]), "naive loop and pipeline differ")
    if bfloat16 and BFLOAT16 in adapter.PRECISIONS:
        close = run_path(f"check_ours_{BFLOAT16}", workspace)
        require_close(expected, Outcome.from_json(close["outcome"]), "bfloat16, small set")
    say(f"the same predictions and scores; {naive['passes']:,} passes in {naive['seconds']:.0f} s")
    return {
        "small_images": found["num_train"] + found["num_test"],
        "small_size": CHECK.image_size,
        "small_passes": naive["passes"],
        "small_seconds": naive["seconds"],
        **run_path("check_space", workspace),
    }


def _checked(done: Round) -> Round:
    """Refuse a round whose paths gave different predictions on the large set."""
    outcomes = {
        name: Outcome.from_json(figures["outcome"])
        for name, figures in done.results.items()
        if "outcome" in figures
    }
    expected = outcomes["plain"]
    require_same(expected, outcomes[f"ours_{FLOAT32}"], "torch's own engine and pipeline differ")
    if close := outcomes.get(f"ours_{BFLOAT16}"):
        require_close(expected, close, "bfloat16")
    return done


def _counts(kept: Sequence[Round]) -> dict[str, Any]:
    results = kept[0].results
    ours = results[f"ours_{FLOAT32}"]
    plain = Outcome.from_json(results["plain"]["outcome"])
    close = results.get(f"ours_{BFLOAT16}")
    return {
        "num_train": ours["num_train"],
        "num_test": ours["num_test"],
        "naive_passes": figures.passes(results).total,
        "pipeline_passes": pipeline_passes(ours["num_train"], ours["num_test"]),
        "bfloat16_different": num_different(plain, Outcome.from_json(close["outcome"]))
        if close
        else None,
    }


def _summary(
    kept: Sequence[Round], dropped: Sequence[Round], options: argparse.Namespace
) -> dict[str, Any]:
    return {
        "wanted": options.rounds,
        "kept": len(kept),
        "dropped": len(dropped),
        "max_others": options.max_noise,
        "others": [round(done.others, 2) for done in kept],
        "seconds": [done.seconds for done in kept],
    }


if __name__ == "__main__":
    main()
