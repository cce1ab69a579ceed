"""What the verdict claims: how often it errs on tables without any difference, and what it says of one method under
eight names, of foreign methods, and of tables that cannot carry a verdict.
"""
import re
import time

import numpy as np
import pandas as pd
import pytest

from medaug.cli import main
from medaug.data.datasets import find_dataset
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import split_patients
from medaug.evaluation.scores import score_test_patients
from medaug.methods import paper_methods
from medaug.report.page import write_comparison_page
from medaug.seg.config import UNetConfig
from medaug.seg.predict import load_unet
from medaug.seg.training import train_unet
from medaug.stats import compare, verdict
from medaug.stats.tables import power_text
from medaug.stats.trainings import draw_study

CLAIMS = ("better", "worse", "mixed")


def long_table(study, scale=0.05, score="z"):
    """A drawn study as a score table; a standard deviation of the patients is `scale`."""
    table = (0.7 + scale*study).stack().rename(score).rename_axis(["seed", "patient", "method"]).reset_index()
    return table.assign(dataset="D-HEART-20", **{"class": "whole"})


def compared(study, smallest_effect=0.01, **options):
    return compare(long_table(study, **options), score="z", better="higher", smallest_effect=smallest_effect)


@pytest.mark.parametrize("patients, trainings, spread, heavy", [
    (16, 2, 0.3, False), (16, 3, 0.5, True), (80, 3, 0.3, False), (80, 2, 0.0, True)], ids=str)
def test_equal_methods_are_seldom_told_apart(patients, trainings, spread, heavy):
    """The family-wise error of the verdict and the coverage of its intervals; at length in benchmarks/verdict.py."""
    studies, claims, held = 60, 0, []
    for seed in range(studies):
        comparison = compared(draw_study(5, patients, trainings, spread, heavy=heavy, seed=seed))
        claims += verdict(comparison).kind in CLAIMS
        gains = comparison.datasets[0].gains
        held.append(((gains.low <= 0) & (gains.high >= 0)).mean())
    assert claims/studies <= 0.05 + 3*(0.05*0.95/studies)**0.5
    assert np.mean(held) >= 0.92


def test_half_a_standard_deviation_is_found():
    found = [compared(draw_study(13, 80, 5, 0.1, gain=0.5, seed=seed)).datasets[0].gains.decision.iloc[0] == "better"
             for seed in range(20)]
    assert np.mean(found) >= 0.85


def test_a_gain_of_the_smallest_effect_is_seldom_called_no_difference():
    wrong = 0
    for seed in range(60):
        study = draw_study(2, 80, 5, 0.002, interaction=0.02, rest=0.02, seed=seed)
        study["method 1"] += 0.01
        wrong += verdict(compared(study, scale=1)).kind == "equivalent"
    assert wrong/60 <= 0.05 + 3*(0.05*0.95/60)**0.5


def test_the_command_says_what_the_verdict_is(tmp_path, capsys):
    for name, gain in (("none", 0.0), ("gain", 1.0)):
        study = draw_study(3, 20, 3, 0.2, gain=gain, seed=3)
        long_table(study, score="dsc").to_csv(tmp_path/f"{name}.csv", index=False)
        assert main(["compare", str(tmp_path/f"{name}.csv"), str(tmp_path/name), "--smallest-effect", "0.02"]) == 0
        expected = verdict(compare(long_table(study, score="dsc"), smallest_effect=0.02))
        assert expected.sentence in capsys.readouterr().out
        assert expected.kind == ("better" if gain else "undecided")
        assert expected.sentence in (tmp_path/name/"index.html").read_text(encoding="utf-8").replace("\u00a0%", " %")


def test_one_method_under_eight_names_is_never_better_or_worse(tmp_path):
    """24 real trainings on phantoms; only their seeds differ."""
    row = find_dataset("d-heart")
    write_phantom(row, tmp_path/"hearts", patients=14, size=16, depth=6, progress_bar=False)
    store = prepare_dataset(row, tmp_path/"hearts", tmp_path/"store", resolution=16, progress_bar=False)
    split = split_patients(store.patients, 8, 0, "rest")
    names, parts = ["BL + w.o.", *(f"B-SG + w.o. + {number}" for number in range(1, 8))], []
    for number, name in enumerate(names):
        for training in range(3):
            config = UNetConfig(epochs=10, batch=8, width=4, depth=2, learning_rate=0.01, seed=10*number + training)
            trained = load_unet(train_unet(store, split, config, tmp_path/f"{number}-{training}"))
            scores = score_test_patients(trained, store, split, row.tolerance)
            parts.append(scores.assign(dataset="D-HEART-8", method=name, seed=training))
    table = pd.concat(parts, ignore_index=True)
    comparison = compare(table)
    assert comparison.datasets[0].trainings.groupby(level="seed").mean().std().max() > 0
    assert verdict(comparison).kind in ("undecided", "equivalent")
    page = write_comparison_page(comparison, tmp_path/"out", table).read_text(encoding="utf-8")
    assert "scored better" not in page and "scored worse" not in page
    alone = compare(table[table.seed == 0].drop(columns="seed"))
    assert verdict(alone).kind == "single-training"


def test_a_foreign_method_with_a_gain_is_found_beside_ours_without():
    study = draw_study(3, 40, 3, 0.05, seed=1).set_axis(["BL + w.o.", "B-SG + w.o. + 50", "DIFFUSION"], axis=1)
    study["DIFFUSION"] += 2.0
    found = verdict(compared(study))
    assert found.kind == "better" and "1 of 2 methods" in found.sentence and "DIFFUSION" in found.sentence


def test_augmentation_of_the_baseline_is_no_way_of_adding_patients():
    study = draw_study(3, 40, 3, 0.05, seed=2).set_axis(["BL + w.o.", "BL + w.", "B-SG + w. + 50"], axis=1)
    study["BL + w."] += 2.0
    study["B-SG + w. + 50"] += 2.0
    comparison = compared(study)
    assert verdict(comparison).kind == "undecided"
    result = comparison.datasets[0]
    assert result.asked.index.tolist() == ["B-SG + w. + 50"] and result.gains.loc["BL + w.", "verdict"] == "better"
    assert result.asked.holm.iloc[0] == result.asked.pvalue.iloc[0]         # a family of one


def test_a_missing_baseline_is_said_and_replaced_by_no_other():
    names = ["BL + w.o.", "B-SG + w.o. + 6", "B-SG + w. + 6"]
    comparison = compared(draw_study(3, 20, 3, 0.05, seed=2).set_axis(names, axis=1))
    assert comparison.datasets[0].gains.index.tolist() == ["B-SG + w.o. + 6"]
    assert any("lacks the baseline BL + w." in note for note in comparison.warnings)


def test_tiny_gains_are_not_told_as_zero():
    study = draw_study(2, 60, 4, 0.0, interaction=0.001, rest=0.001, gain=0.0)
    study["method 1"] += 0.004
    found = verdict(compared(study, smallest_effect=0.0001))
    assert found.kind == "better" and "+0.000 " not in found.sentence and "+0.0002" in found.sentence


def test_sub_datasets_share_patients_and_the_headline_is_corrected():
    parts = [long_table(draw_study(2, 16, 3, 0.1, gain=0.35, seed=seed)).assign(dataset=f"BraTS20-{20 + seed}")
             for seed in range(6)]
    comparison = compare(pd.concat(parts), score="z", better="higher", smallest_effect=0.01)
    gains = pd.concat([result.gains for result in comparison.datasets])
    assert (gains.across >= gains.holm).all() and (gains.across > gains.holm).any()
    assert any("share patients" in note for note in comparison.warnings)


def test_copies_of_one_training_are_noticed():
    once = long_table(draw_study(3, 12, 1, seed=1))
    copied = pd.concat([once.assign(seed=seed) for seed in range(3)])
    comparison = compare(copied, score="z", better="higher", smallest_effect=0.01)
    assert any("copies of one training" in note for note in comparison.warnings)


def test_trainings_and_patients_that_a_method_lacks_are_left_out():
    table = long_table(draw_study(3, 12, 4, seed=1))
    lacking = table[~((table.method == "method 1") & ((table.seed == 3) | ((table.seed == 1) & (table.patient == 5))))]
    result = compare(lacking, score="z", better="higher", missing="drop").datasets[0]
    assert result.gains.trainings.unique().tolist() == [3] and result.gains.patients.unique().tolist() == [11]


def test_folds_count_every_patient_once():
    parts = [draw_study(3, 20, 5, 0.2, seed=1)]
    table = long_table(parts[0])
    folds = table[table.seed == table.patient % 5].assign(fold=lambda rows: rows.patient % 5, seed=0)
    result = compare(folds, score="z", better="higher").datasets[0]
    assert result.patients == 20 and result.gains.trainings.unique().tolist() == [5]
    assert set(result.gains.verdict) <= {"undecided", "better", "worse"} and result.gains.low.notna().all()


def test_power_names_what_to_raise_by_comparison(tmp_path):
    long_table(draw_study(4, 30, 4, 0.1, seed=1), score="dsc").to_csv(tmp_path/"scores.csv", index=False)
    text = power_text(4, 30, scores=tmp_path/"scores.csv")
    assert "4 trainings of each" in text and len(re.findall(r"method \d against baseline", text)) == 3
    assert "More trainings help more" in power_text(5, 80, training_spread=0.03)
    assert "More patients help more" in power_text(5, 8, training_spread=0.001)
    assert "give --training-spread" in power_text(5, 80)


def test_a_large_table_is_compared_quickly():
    """26 methods, 500 patients and 5 trainings take well below a second; the limit leaves room for a busy machine."""
    study = draw_study(26, 500, 5, 0.1).set_axis([method.name for method in paper_methods()], axis=1)
    table = long_table(study)
    compare(table, score="z", better="higher")
    start = time.process_time()
    compare(table, score="z", better="higher")
    assert time.process_time() - start < 3


def test_the_paper_s_tables_do_not_know_the_model():
    """Tables 2 and 3 follow from the scores averaged over trainings, with and without the column seed."""
    table = long_table(draw_study(5, 20, 3, 0.3, gain=1.0, seed=1))
    averaged = table.groupby(["dataset", "method", "patient", "class"], as_index=False).z.mean()
    with_seeds, without = (compare(one, score="z", better="higher").datasets[0] for one in (table, averaged))
    assert with_seeds.directions.equals(without.directions) and with_seeds.nemenyi.equals(without.nemenyi)
    assert set(without.gains.verdict) == {"single-training"} and with_seeds.gains.verdict.iloc[0] == "better"
