"""False positives and power, by simulations that share no code with medaug.stats.power_analysis."""
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from medaug.stats import critical_difference, directions, friedman, paired_effects, power

METHODS, TABLES, ALPHA = 26, 10_000, 0.05
ERROR = 3*(ALPHA*(1 - ALPHA)/TABLES)**0.5      # three standard errors of a rate of 0.05 over 10,000 tables


def any_direction(ranks, alpha=ALPHA):
    """For each of many tables of ranks (tables, blocks, methods), whether it has any nonzero direction.

    From χ² corrected for ties, and the largest gap.
    """
    blocks, methods = ranks.shape[1:]
    means = ranks.mean(axis=1)
    between = blocks*((means - (methods + 1)/2)**2).sum(axis=1)
    within = ((ranks - (methods + 1)/2)**2).sum(axis=(1, 2))/(blocks*(methods - 1))
    statistic = np.divide(between, within, out=np.zeros_like(between), where=within > 0)
    rejects = scipy.stats.chi2.sf(statistic, methods - 1) < alpha
    return rejects & (np.ptp(means, axis=1) > critical_difference(methods, blocks, alpha))


@pytest.mark.parametrize("patients", [4, 8, 20, 74])
def test_family_wise_false_positives_by_patient(patients):
    """26 equal methods: a table with any + or - in it is a false positive, and at most 5 in 100 may be."""
    rng, positives, checked = np.random.default_rng(patients), 0, 0
    for _ in range(TABLES//500):
        ranks = np.argsort(np.argsort(rng.random((500, patients, METHODS), dtype=np.float32), axis=-1), axis=-1) + 1.0
        verdicts = any_direction(ranks)
        positives += int(verdicts.sum())
        for i in (0, *np.flatnonzero(verdicts)[:1]):   # the package itself, on positive tables above all
            assert directions(pd.DataFrame(-ranks[i])).any().any() == verdicts[i]
            checked += 1
    assert positives/TABLES <= ALPHA + ERROR
    assert checked >= TABLES//500


@pytest.mark.parametrize("patients", [4, 20])
def test_family_wise_false_positives_with_ties(patients):
    """Scores in three steps, so that most tie: the corrected χ² may not make false positives more frequent."""
    rng, positives = np.random.default_rng(patients), 0
    for _ in range(TABLES//500):
        ranks = scipy.stats.rankdata(rng.integers(0, 3, (500, patients, METHODS)), axis=-1)
        positives += int(any_direction(ranks).sum())
    assert positives/TABLES <= ALPHA + ERROR


def test_slices_as_blocks_make_false_positives():
    """Equal methods on 8 patients whose 40 slices share the patient's luck: far more than 5 in 100 tables by slice."""
    rng, studies = np.random.default_rng(0), 500
    own = 0.5*rng.normal(size=(studies, 8, 1, METHODS))
    scores = own + rng.normal(size=(studies, 8, 40, METHODS)).astype(np.float32)
    by_slice = any_direction(scipy.stats.rankdata(scores.reshape(studies, 320, METHODS), axis=-1))
    by_patient = any_direction(scipy.stats.rankdata(scores.mean(axis=2), axis=-1))
    assert by_slice.mean() > 0.5 and by_patient.mean() <= ALPHA + 3*(ALPHA*(1 - ALPHA)/studies)**0.5


def found_by_hand(scores, alpha=ALPHA):
    """Whether (Friedman, Nemenyi, Wilcoxon with Holm) find the last method to beat the first, from SciPy alone.

    `scores`: many studies (studies, patients, methods) whose last method is better.
    """
    studies, patients, methods = scores.shape
    means = scipy.stats.rankdata(-scores, axis=-1).mean(axis=1)
    statistic = 12*patients/(methods*(methods + 1))*((means - (methods + 1)/2)**2).sum(axis=-1)
    rejects = scipy.stats.chi2.sf(statistic, methods - 1) < alpha
    gaps = (means[:, 0] - means[:, -1])/(methods*(methods + 1)/(6*patients))**0.5*2**0.5
    nemenyi = rejects & (scipy.stats.studentized_range.sf(np.maximum(gaps, 0), methods, np.inf) < alpha)
    differences = scores[..., 1:] - scores[..., :1]
    pvalues = scipy.stats.wilcoxon(differences, axis=1).pvalue
    ordered = np.sort(pvalues, axis=1)
    # Holm goes up until the first p-value that is not small enough
    steps = np.cumprod(ordered <= alpha/np.arange(methods - 1, 0, -1), axis=1)
    holm = pvalues[:, -1] <= np.where(steps, ordered, 0).max(axis=1)
    return np.array([rejects, nemenyi, holm & (np.median(differences[..., -1], axis=1) > 0)]).T


@pytest.mark.parametrize("methods, patients, effect, spread",
                         [(26, 40, 0.03, 0.05), (10, 12, 0.05, 0.05), (4, 8, 0.06, 0.04)])
def test_power_is_confirmed_by_an_independent_simulation(methods, patients, effect, spread):
    """Whole studies with a level of difficulty for each patient, tested without the package, which agrees on some."""
    claimed, studies = power(methods, patients, effect=effect, spread=spread, simulations=4000), 600
    rng = np.random.default_rng(methods)
    scores = rng.normal(0.7, 0.1, (studies, patients, 1)) + rng.normal(0, spread/2**0.5, (studies, patients, methods))
    scores[..., -1] += effect
    found = found_by_hand(scores)
    for study in range(15):
        table = pd.DataFrame(scores[study])
        effects = paired_effects(table, baseline=0).loc[methods - 1]
        by_holm = effects.holm < ALPHA and effects.difference > 0
        ours = friedman(table).pvalue < ALPHA, directions(table).loc[methods - 1, 0] == 1, by_holm
        assert ours == tuple(found[study])
    for name, rate in zip(("friedman", "nemenyi", "wilcoxon"), found.mean(axis=0)):
        expected = getattr(claimed, name)
        error = max(expected*(1 - expected), 0.01)**0.5*(1/studies + 1/4000)**0.5
        assert abs(rate - expected) < 3.5*error + 0.005, name


def test_power_of_a_large_study_is_confirmed():
    """Beyond 300 patients power comes from formulas: four methods, 400 patients."""
    claimed, studies = power(4, 400, effect=0.008, spread=0.05), 300
    scores = np.random.default_rng(0).normal(0, 0.05/2**0.5, (studies, 400, 4))
    scores[..., -1] += 0.008
    for name, rate in zip(("friedman", "nemenyi", "wilcoxon"), found_by_hand(scores).mean(axis=0)):
        expected = getattr(claimed, name)
        assert 0.3 < expected < 0.97 and abs(rate - expected) < 3.5*(expected*(1 - expected)/studies)**0.5 + 0.01, name


def test_family_wise_false_positives_against_the_baseline():
    """Wilcoxon with Holm's correction, 25 equal methods against the baseline, 2,000 tables of 12 patients."""
    scores = np.random.default_rng(1).normal(size=(2000, 12, METHODS))
    pvalues = scipy.stats.wilcoxon(scores[..., 1:] - scores[..., :1], axis=1).pvalue
    for study in range(5):
        ours = paired_effects(pd.DataFrame(scores[study]), baseline=0)
        assert np.abs(ours.pvalue - pvalues[study]).max() < 1e-9
    assert (pvalues.min(axis=1)*(METHODS - 1) < ALPHA).mean() <= ALPHA + 3*(ALPHA*(1 - ALPHA)/2000)**0.5


def test_the_patients_needed_are_enough_and_not_too_many():
    claimed = power(10, 12, effect=0.04, spread=0.05)
    for patients, least, most in [(claimed.patients_needed, 0.74, 0.86), (claimed.patients_needed//2, 0.0, 0.6)]:
        rng = np.random.default_rng(patients)
        scores = rng.normal(0, 0.05/2**0.5, (2000, patients, 10))
        scores[..., 9] += 0.04
        ranks = scipy.stats.rankdata(-scores, axis=-1)
        means = ranks.mean(axis=1)
        statistic = 12*patients/(10*11)*((means - 5.5)**2).sum(axis=1)
        ahead = means[:, 0] - means[:, 9] > critical_difference(10, patients)
        found = (scipy.stats.chi2.sf(statistic, 9) < ALPHA) & ahead
        assert least <= found.mean() <= most
