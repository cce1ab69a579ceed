"""The statistics agree with the libraries that compute the same thing, on random tables with many ties."""
import warnings

import numpy as np
import pandas as pd
import scipy.stats
from statsmodels.stats.multitest import multipletests

from medaug.stats import critical_difference, directions, friedman, nemenyi, paired_effects


def random_table(seed, least_methods=2):
    """5 to 40 blocks and up to 12 methods, in half of the tables different ones, rounded so that many scores tie."""
    rng = np.random.default_rng(seed)
    blocks, methods = rng.integers(5, 41), rng.integers(least_methods, 13)
    scores = rng.normal(0.7, 0.1, (blocks, methods)) + rng.integers(0, 2)*np.linspace(0, 0.2, methods)
    return pd.DataFrame(scores.round(rng.integers(1, 3)), columns=[f"method {i}" for i in range(methods)])


TABLES = [random_table(seed, least_methods=3) for seed in range(200)]


def test_the_tables_have_ties():
    assert sum((table.nunique(axis=1) < table.shape[1]).any() for table in TABLES) > 150


def test_friedman_agrees_with_scipy():
    """SciPy corrects for ties too; it does not take two methods."""
    for table in TABLES:
        theirs, ours = scipy.stats.friedmanchisquare(*table.to_numpy().T), friedman(table)
        assert abs(ours.statistic - theirs.statistic) < 1e-9 and abs(ours.pvalue - theirs.pvalue) < 1e-9


def test_the_uncorrected_statistic_agrees_where_nothing_ties():
    """scikit-posthocs and SciPy give only the corrected one. Without ties both are equal, with ties ours is smaller."""
    for seed, table in enumerate(TABLES):
        untied = table + np.random.default_rng(seed).random(table.shape)*1e-6
        assert abs(friedman(untied).statistic - friedman(untied).statistic_uncorrected) < 1e-9
        assert friedman(table).statistic_uncorrected <= friedman(table).statistic + 1e-9


def test_nemenyi_agrees_with_scikit_posthocs_long_form():
    """The long form of a table goes another way through scikit-posthocs than the wide form that we call."""
    import scikit_posthocs as posthocs
    for table in TABLES:
        long = table.reset_index(names="block").melt("block", var_name="method", value_name="score")
        theirs = posthocs.posthoc_nemenyi_friedman(long, y_col="score", group_col="method", block_col="block",
                                                    block_id_col="block", melted=True)
        assert np.abs(nemenyi(table).to_numpy() - theirs.loc[table.columns, table.columns].to_numpy()).max() < 1e-9


def test_nemenyi_is_the_studentized_range_of_the_rank_gaps():
    for table in TABLES:
        blocks, methods = table.shape
        ranks = scipy.stats.rankdata(-table.to_numpy(), axis=1).mean(axis=0)
        gaps = np.abs(ranks[:, None] - ranks)/np.sqrt(methods*(methods + 1)/(6*blocks))*np.sqrt(2)
        expected = scipy.stats.studentized_range.sf(gaps, methods, np.inf)
        np.fill_diagonal(expected, 1)
        assert np.abs(nemenyi(table).to_numpy() - expected).max() < 1e-9


def test_directions_follow_from_the_tests():
    for table in TABLES:
        ranks = scipy.stats.rankdata(-table.to_numpy(), axis=1).mean(axis=0)
        beyond = np.abs(ranks[:, None] - ranks) > critical_difference(*table.shape[::-1])
        rejects = scipy.stats.friedmanchisquare(*table.to_numpy().T).pvalue < 0.05
        expected = np.sign(ranks - ranks[:, None])*beyond*rejects
        assert (directions(table).to_numpy() == expected).all()


def test_agreement_with_autorank():
    """autorank's p-value and mean ranks agree to 1e-9, its critical difference to 1e-4 of itself.

    Its quantile of the studentized range is statsmodels' `qsturng`, Gleason's approximation; ours is SciPy's integral.
    The two differed by up to 1.7e-4 ranks.
    """
    import autorank
    compared = 0
    for table in TABLES:
        if not friedman(table).pvalue < 0.05:
            continue                                    # autorank gives no critical difference then
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")             # it also computes effect sizes and intervals that ties upset
            theirs = autorank.autorank(table, alpha=0.05, force_mode="nonparametric")
        ours = friedman(table)
        assert abs(theirs.pvalue - ours.pvalue) < 1e-9
        assert np.abs(theirs.rankdf["meanrank"] - ours.mean_ranks[theirs.rankdf.index]).max() < 1e-9
        assert abs(theirs.cd - critical_difference(*table.shape[::-1])) < 1e-4*theirs.cd
        compared += 1
    assert compared > 50


def counted_by_hand(difference):
    """Wilcoxon's exact two-sided p-value: the ways to reach each sum of positive ranks, counted in a dictionary."""
    if not difference.any():
        return 1.0                                      # SciPy gives NaN then
    ranks, ways = scipy.stats.rankdata(np.abs(difference)), {0.0: 1}
    for rank in ranks[difference != 0]:
        joined = {total + rank: number for total, number in ways.items()}
        ways = {total: ways.get(total, 0) + joined.get(total, 0) for total in ways.keys() | joined.keys()}
    observed = ranks[difference > 0].sum()
    below = sum(number for total, number in ways.items() if total <= observed)
    above = sum(number for total, number in ways.items() if total >= observed)
    return min(1.0, 2*min(below, above)/sum(ways.values()))


def scipys_exact(difference):
    return scipy.stats.wilcoxon(difference, method="exact").pvalue


def test_wilcoxon_and_holm_agree_with_scipy_and_statsmodels():
    """Tables with ties and zeros among the differences: exact for every number of patients; tables without: SciPy's."""
    for seed, table in enumerate(TABLES):
        untied = table + np.random.default_rng(seed).normal(0, 1e-3, table.shape)
        for scores, exact in ((table, counted_by_hand), (untied, scipys_exact)):
            ours = paired_effects(scores, baseline="method 0")
            differences = scores.drop(columns="method 0").sub(scores["method 0"], axis=0).round(12)
            theirs = np.array([exact(differences[name].to_numpy()) for name in differences])
            assert np.abs(ours.pvalue - theirs).max() < 1e-9
            assert np.abs(ours.difference - differences.median()).max() < 1e-9
        if seed % 50 == 0:                              # statsmodels collects garbage in each call, which takes long
            assert np.abs(ours.holm - multipletests(theirs, method="holm")[1]).max() < 1e-9


def test_wilcoxon_with_ties_is_scipys_permutation_test():
    """SciPy's own exact test with ties tries all signs; it takes a second for 13 patients."""
    every = scipy.stats.PermutationMethod(n_resamples=np.inf)
    for seed, patients in enumerate((3, 6, 9, 11)):
        table = pd.DataFrame(np.random.default_rng(seed).normal(0.2, 1, (patients, 2)).round(), columns=["a", "b"])
        if (table.a != table.b).any():
            theirs = scipy.stats.wilcoxon(table.b - table.a, zero_method="zsplit", method=every).pvalue
            assert abs(paired_effects(table, baseline="a").pvalue.iloc[0] - theirs) < 1e-12


def test_wilcoxon_is_exact_up_to_200_patients_and_close_beyond():
    """The normal approximation is used from 201 patients on. At 14 patients with zeros it is still far off."""
    gains = pd.DataFrame({"a": 0.0, "b": [0, 0, *np.arange(1, 13)/100]})
    exact = paired_effects(gains, baseline="a").pvalue.iloc[0]
    assert abs(exact - 2/2**12) < 1e-15
    assert scipy.stats.wilcoxon(gains.b, zero_method="zsplit", method="approx").pvalue > 2*exact
    for patients in (200, 201):
        scores = np.random.default_rng(patients).normal([0, 0.2], 1, (patients, 2)).round(1)
        table = pd.DataFrame(scores, columns=["a", "b"])
        expected = counted_by_hand((table.b - table.a).round(12).to_numpy())
        found = paired_effects(table, baseline="a").pvalue.iloc[0]
        assert abs(found - expected) < (1e-9 if patients == 200 else 0.1*expected)


def test_two_methods_are_the_sign_test():
    """For two methods without ties χ² is the square of the sign test's normal score, and Nemenyi's p-value its tail."""
    for seed in range(50):
        table = pd.DataFrame(np.random.default_rng(seed).random((12, 2)))
        wins = int((table[0] > table[1]).sum())
        z = (2*wins - 12)/12**0.5
        assert abs(friedman(table).statistic - z**2) < 1e-9
        assert abs(nemenyi(table).iloc[0, 1] - 2*scipy.stats.norm.sf(abs(z))) < 1e-9
