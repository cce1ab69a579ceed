"""How long do the tests take on a table of 26 methods and 20,000 blocks, and a comparison from a CSV file of that size?

Peers in the same run: SciPy's `friedmanchisquare` with scikit-posthocs' `posthoc_nemenyi_friedman`, and autorank, which does both.
Writes results/compare_tables.json: the best of the repetitions, seconds, and the peak of memory above the start, MiB.

    python benchmarks/compare_tables.py
"""
import datetime
import json
import platform
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
from autorank import autorank
from scikit_posthocs import posthoc_nemenyi_friedman

from medaug.stats import directions, friedman, nemenyi
from medaug.stats.tables import compare_scores

METHODS, BLOCKS, REPETITIONS = 26, 20_000, 3


def best_of(function, repetitions=REPETITIONS):
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return round(min(seconds), 3)


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024


def main():
    warnings.simplefilter("ignore")
    scores = np.random.default_rng(0).random((BLOCKS, METHODS)) + np.linspace(0, 0.05, METHODS)     # with ties, and Friedman rejects
    scores = pd.DataFrame(scores.round(2), columns=[f"method {i:02}" for i in range(METHODS)])
    start = peak()
    ours = best_of(lambda: (friedman(scores), nemenyi(scores), directions(scores)))
    memory = round(peak() - start, 1)
    peers = {
        "SciPy friedmanchisquare and scikit-posthocs posthoc_nemenyi_friedman": best_of(lambda: (scipy.stats.friedmanchisquare(*scores.to_numpy().T), posthoc_nemenyi_friedman(scores.to_numpy()))),
        "autorank, force_mode nonparametric": best_of(lambda: autorank(scores, alpha=0.05, force_mode="nonparametric").pvalue, 1),
    }
    folder = Path(tempfile.mkdtemp())
    long = scores.rename_axis("patient").reset_index().melt("patient", var_name="method", value_name="dsc").assign(**{"dataset": "one", "class": "whole"})
    long.to_csv(folder/"scores.csv", index=False)
    result = {
        "question": "friedman, nemenyi and directions of one table", "methods": METHODS, "blocks": BLOCKS, "repetitions": REPETITIONS,
        "seconds": ours, "memory_MiB": memory, "peers_seconds": peers, "peers_ratio": {name: round(seconds/ours, 2) for name, seconds in peers.items()},
        "compare_scores_seconds": best_of(lambda: compare_scores(folder/"scores.csv", folder/"out"), 2),
        "processor": processor(), "python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__, "pandas": pd.__version__, "date": datetime.date.today().isoformat(),
    }
    Path(__file__).parent.joinpath("results").mkdir(exist_ok=True)
    Path(__file__).parent.joinpath("results", "compare_tables.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    json.dump(result, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
