"""How often does the comparison of methods err, and how often does it find a difference that is there?

Studies are drawn from the model of `medaug.stats.trainings`: methods, patients, trainings, a spread between trainings,
normal or heavy-tailed. Without any difference it counts studies in which a method is called better or worse
(family-wise error) and intervals that hold the true difference (coverage). Peer in the same run: Wilcoxon's test with
Holm's correction on the means over trainings, which knows nothing of the spread between trainings. Then the power for
half a standard deviation of the patients, and how often a gain of the smallest effect that matters is called no
difference that matters. Five folds: methods gain more from some training patients than from others. The last part sends
a fiftieth of the studies of each case through all of `medaug compare`: the score table with its column seed, and the
verdict.
Writes results/verdict.json.

    python benchmarks/verdict.py [STUDIES] [PART …]

With the names of parts, only those are measured, and the other parts of the results stay.
"""
import itertools
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from machine import machine, write_results
from scipy.stats import wilcoxon

from medaug.stats import compare, verdict
from medaug.stats.effects import holm
from medaug.stats.trainings import draw_study, training_effects

SPREADS, PATIENTS, TRAININGS, METHODS = (0.0, 0.1, 0.3, 0.5), (16, 80), (2, 3, 5), (5, 26)


def effects_of(study, smallest_effect=0.01):
    return training_effects(study, {name: "baseline" for name in study.columns[1:]}, smallest_effect=smallest_effect)


def patients_only(study):
    """Whether Wilcoxon's test with Holm's correction on the means over trainings calls any method different."""
    means = study.groupby(level="patient").mean().to_numpy()
    pvalues = wilcoxon(means[:, 1:] - means[:, :1], method="approx" if len(means) > 50 else "auto").pvalue
    return (holm(pvalues) < 0.05).any()


def whole_verdict(case, studies):
    """The claims of `medaug compare` in one case without any difference: the table, the comparison, the verdict."""
    methods, patients, trainings, spread, heavy = case
    kinds = []
    for seed in range(max(1, studies//50)):
        study = 0.7 + 0.05*draw_study(methods, patients, trainings, spread, heavy=heavy, seed=10_000 + seed)
        table = study.stack().rename("z").rename_axis(["seed", "patient", "method"]).reset_index()
        table = table.assign(dataset="drawn", **{"class": "whole"})
        kinds.append(verdict(compare(table, score="z", better="higher", smallest_effect=0.01)).kind)
    claims = sum(kind in ("better", "worse", "mixed") for kind in kinds)
    return {"methods": methods, "patients": patients, "trainings": trainings, "spread": spread,
            "tails": "heavy" if heavy else "normal", "studies": len(kinds), "studies with a claim": claims}


def null_case(case, studies):
    """The family-wise errors and the coverage of one case without any difference."""
    methods, patients, trainings, spread, heavy = case
    alarms, peer, covered = [], [], []
    for seed in range(studies):
        study = draw_study(methods, patients, trainings, spread, heavy=heavy, seed=seed)
        effects = effects_of(study)
        alarms.append(effects.verdict.isin(["better", "worse"]).any())
        covered.append(((effects.low <= 0) & (effects.high >= 0)).mean())
        peer.append(patients_only(study))
    return {
        "methods": methods,
        "patients": patients,
        "trainings": trainings,
        "spread": spread,
        "tails": "heavy" if heavy else "normal",
        "family-wise error": round(float(np.mean(alarms)), 4),
        "coverage": round(float(np.mean(covered)), 4),
        "family-wise error of Wilcoxon-Holm on means": round(float(np.mean(peer)), 4),
    }


def few_patients(case, studies):
    patients, trainings, spread, heavy = case
    drawn = (effects_of(draw_study(5, patients, trainings, spread, heavy=heavy, seed=seed)) for seed in range(studies))
    covered = [((effects.low <= 0) & (effects.high >= 0)).mean() for effects in drawn]
    return {"patients": patients, "trainings": trainings, "spread": spread, "tails": "heavy" if heavy else "normal",
            "coverage": round(float(np.mean(covered)), 4)}


def power_case(case, studies):
    methods, patients, trainings, spread, gain = case
    found = [
        effects_of(draw_study(methods, patients, trainings, spread, gain=gain, seed=seed)).verdict.iloc[0] == "better"
        for seed in range(studies)
    ]
    return {"methods": methods, "patients": patients, "trainings": trainings, "spread": spread, "gain": gain,
            "power": round(float(np.mean(found)), 4)}


def equivalence_case(case, studies):
    """A true gain of exactly the smallest effect that matters: to call any method equivalent is wrong."""
    methods, patients, trainings, smallest = case
    wrong = []
    for seed in range(studies):
        study = draw_study(methods, patients, trainings, 0.002, interaction=0.02, rest=0.02, seed=seed)
        study[study.columns[1:]] += smallest
        wrong.append((effects_of(study, smallest).verdict == "equivalent").any())
    return {"methods": methods, "patients": patients, "trainings": trainings, "smallest effect": smallest,
            "wrongly called no difference that matters": round(float(np.mean(wrong)), 4)}


def folds_case(case, studies):
    """Five folds, three methods, 60 patients, and no difference between methods but by training patients."""
    trainings, training_patients = case
    drawn = (effects_of(draw_study(3, 60, trainings, 0.1, folds=5, training_patients=training_patients, seed=seed))
             for seed in range(studies))
    found = [(effects.verdict.isin(["better", "worse"]).any(), ((effects.low <= 0) & (effects.high >= 0)).mean())
             for effects in drawn]
    error, coverage = (round(float(share), 4) for share in np.mean(found, 0))
    return {"trainings in each fold": trainings, "spread between folds": training_patients,
            "family-wise error": error, "coverage": coverage}


def run(name, case, cases, studies, pool):
    start = time.monotonic()
    found = list(pool.map(case, cases, [studies]*len(cases)))
    print(f"{name}: {len(cases)} cases of {studies} studies in {time.monotonic() - start:.0f} s", flush=True)
    return found


NULL = list(itertools.product(METHODS, PATIENTS, TRAININGS, SPREADS, (False, True)))
PARTS = {
    "no difference": (null_case, NULL),
    "few patients": (few_patients, list(itertools.product((6, 8, 12), (2, 3, 5), (0.1, 0.3), (False, True)))),
    "power": (power_case, [(m, n, k, 0.1, 0.5) for m in (5, 13) for n, k in ((16, 3), (16, 5), (80, 3), (80, 5))]),
    "equivalence": (equivalence_case, [(m, n, 5, 0.01) for m in (2, 5) for n in (16, 80)]),
    "folds": (folds_case, list(itertools.product((1, 2, 3), (0.0, 0.1, 0.2)))),
    "through medaug compare": (whole_verdict, NULL),
}


def main():
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    studies, parts = (numbers or [1000])[0], [word for word in sys.argv[1:] if not word.isdigit()]
    path, kept = Path(__file__).parent/"results"/"verdict.json", {}
    if parts and path.is_file():
        kept = json.loads(path.read_text())
    facts = machine("numpy", "scipy")
    with ProcessPoolExecutor(2) as pool:
        found = {name: run(name, *PARTS[name], studies, pool) for name in parts or PARTS}
    if kept:
        kept |= {f"machine of {part}": facts for part in parts}
    else:
        kept = {"machine": facts, "studies a case": studies}
    write_results(__file__, kept | found)


if __name__ == "__main__":
    main()
