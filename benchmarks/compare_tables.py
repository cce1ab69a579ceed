"""How long do the tests, and a comparison from a CSV file, take for 26 methods and 20,000 blocks?

Peers in the same run: SciPy's `friedmanchisquare` with scikit-posthocs' `posthoc_nemenyi_friedman`, and autorank, which
does both. Writes results/compare_tables.json: the best of the repetitions, seconds, and the peak of memory above the
start, MiB.

    python benchmarks/compare_tables.py
"""
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
from autorank import autorank
from machine import machine, peak_memory, write_results
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


def peak():
    return peak_memory()/2**20


def main():
    warnings.simplefilter("ignore")
    # with ties, and Friedman rejects
    scores = np.random.default_rng(0).random((BLOCKS, METHODS)) + np.linspace(0, 0.05, METHODS)
    scores = pd.DataFrame(scores.round(2), columns=[f"method {i:02}" for i in range(METHODS)])
    start = peak()
    ours = best_of(lambda: (friedman(scores), nemenyi(scores), directions(scores)))
    memory = round(peak() - start, 1)
    peers = {
        "SciPy friedmanchisquare and scikit-posthocs posthoc_nemenyi_friedman": best_of(
            lambda: (scipy.stats.friedmanchisquare(*scores.to_numpy().T), posthoc_nemenyi_friedman(scores.to_numpy()))
        ),
        "autorank, force_mode nonparametric": best_of(
            lambda: autorank(scores, alpha=0.05, force_mode="nonparametric").pvalue, 1
        ),
    }
    folder = Path(tempfile.mkdtemp())
    long = (
        scores.rename_axis("patient")
        .reset_index()
        .melt("patient", var_name="method", value_name="dsc")
        .assign(**{"dataset": "one", "class": "whole"})
    )
    long.to_csv(folder/"scores.csv", index=False)
    result = {
        "question": "friedman, nemenyi and directions of one table",
        "methods": METHODS,
        "blocks": BLOCKS,
        "repetitions": REPETITIONS,
        "seconds": ours,
        "memory_MiB": memory,
        "peers_seconds": peers,
        "peers_ratio": {name: round(seconds / ours, 2) for name, seconds in peers.items()},
        "compare_scores_seconds": best_of(lambda: compare_scores(folder / "scores.csv", folder / "out"), 2),
        **machine("numpy", "scipy", "pandas"),
    }
    write_results(__file__, result)


if __name__ == "__main__":
    main()
