"""Anybody's score table through `compare_scores`: the results, and refusals in one line before anything is written."""
import warnings

import numpy as np
import pandas as pd
import pytest

from medaug.errors import UserError
from medaug.stats import critical_difference, directions, friedman, nemenyi, paired_effects, power
from medaug.stats.tables import compare_scores, power_text, table2

HEADER = "dataset,method,patient,class,dsc\n"
PAPER = [f"{pipeline} + {augmentation}" + (f" + {n}" if n else "")
         for augmentation in ("w.o.", "w.") for pipeline in ("BL", "B-SG", "MC-SG")
         for n in ([0] if pipeline == "BL" else [20, 50, 100, 200, 400, 500])]
SUB_DATASETS = """D-HEART-20 D-SPLEEN-20 D-SPLEEN-41 IBSR18-18 KiTS19-20 KiTS19-50 KiTS19-100 KiTS19-203 BraTS20-20
BraTS20-50 BraTS20-100 BraTS20-200 BraTS20-369 U-PRO-20 U-PRO-50 U-PRO-100 U-PRO-200 U-PRO-500""".split()


def rows(dataset="d", methods=("BL", "ours"), patients=8, classes=("a", "b"), gain=0.05):
    """A table in which the last method is better by `gain`, as text without its header."""
    rng = np.random.default_rng(0)
    levels = rng.normal(0.7, 0.05, (patients, len(classes)))
    gains = dict.fromkeys(methods, 0) | {methods[-1]: gain}
    return "".join(f"{dataset},{method},p{i:02},{name},{levels[i, j] + gains[method] + rng.normal(0, 0.005):.5f}\n"
                   for method in methods for i in range(patients) for j, name in enumerate(classes))


def compared(tmp_path, text, name="scores.csv", **options):
    path = tmp_path/name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compare_scores(path, tmp_path/"out", **options)


@pytest.mark.parametrize("change", [
    lambda text: "\ufeff" + text,
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.replace("\n", ",a note\n").replace("dsc,a note", "dsc,remark", 1),
    lambda text: text.replace(",", ", ").replace("\n", " \n\n"),
    lambda text: "\n".join(",".join(f'"{field}"' for field in line.split(",")) for line in text.splitlines()),
    lambda text: "\n".join(text.splitlines()[:1] + sorted(text.splitlines()[1:])),
    lambda text: "\n".join(",".join(line.split(",")[::-1]) for line in text.splitlines()),
    lambda text: text.replace(",", ";"),
    lambda text: text.replace(",", ";").replace(".", ","),
    lambda text: text.replace(",", "\t"),
], ids=["byte order mark", "Windows", "another column", "blanks", "quotes", "order of rows", "order of columns",
        "semicolons", "semicolons and decimal commas", "tabs"])
def test_the_same_scores_written_otherwise_give_the_same_answer(tmp_path, change):
    expected, found = (compared(tmp_path, text).datasets[0] for text in (HEADER + rows(), change(HEADER + rows())))
    assert found.directions.equals(expected.directions) and found.directions.loc["ours", "BL"] == 1
    assert np.allclose(found.scores, expected.scores, rtol=0, atol=1e-12) and found.effects.equals(expected.effects)


REFUSED = {
    "empty": "",
    "only blank lines": "\n\n",
    "only a header": HEADER,
    "no header": rows(),
    "percentages": HEADER + "d,BL,p1,a,85.2\nd,ours,p1,a,86\n",
    "a score above 1": HEADER + "d,BL,p1,a,0.5\nd,ours,p1,a,1.7\n",
    "a negative score": HEADER + "d,BL,p1,a,0.5\nd,ours,p1,a,-0.7\n",
    "a word for a score": HEADER + rows() + "d,BL,p90,a,high\n",
    "a decimal comma": HEADER + 'd,BL,p1,a,"0,5"\nd,ours,p1,a,"0,6"\n',
    "NaN": HEADER + rows() + "d,BL,p90,a,nan\n",
    "infinity": HEADER + rows() + "d,BL,p90,a,inf\n",
    "an empty score": HEADER + rows() + "d,BL,p90,a,\n",
    "a score twice": HEADER + rows() + rows().splitlines()[0],
    "a score missing": HEADER + rows()[:rows().rstrip().rindex("\n") + 1],
    "one method": HEADER + rows(methods=("BL",)),
    "a method's name missing": HEADER + "d,,p1,a,0.5\n",
    "a column twice": HEADER.replace("dsc", "dsc,dsc") + "d,BL,p1,a,0.5,0.6\nd,ours,p1,a,0.5,0.6\n",
    "a field too many": HEADER + rows() + "d,BL,p90,a,0.5,0.6\n",
    "a field too few": HEADER + rows() + "d,BL,p90\n",
    "an open quote": HEADER + '"d,BL,p1,a,0.5\n',
    "a name over two lines twice": HEADER + 'd,"B\nL",p1,a,0.5\n'*2,
    "no common patient": HEADER + "d,BL,p1,a,0.5\nd,ours,p2,a,0.5\n",
    "UTF-16": (HEADER + rows()).encode("utf-16"),
    "Latin-1": (HEADER + rows("é")).encode("latin-1"),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_is_refused_in_one_line_and_nothing_is_written(tmp_path, text):
    with pytest.raises(UserError) as refusal:
        compared(tmp_path, text)
    assert len(str(refusal.value).splitlines()) == 1 and len(str(refusal.value)) < 400
    assert not (tmp_path/"out").exists()


@pytest.mark.parametrize("options", [
    dict(blocks="slice"), dict(blocks="voxel"), dict(alpha=0), dict(alpha=1.5), dict(score="nsd"), dict(score="class"),
    dict(missing="guess"), dict(better="up"),
], ids=str)
def test_impossible_requests_are_refused(tmp_path, options):
    with pytest.raises(UserError) as refusal:
        compared(tmp_path, HEADER + rows(), **options)
    assert len(str(refusal.value).splitlines()) == 1 and not (tmp_path/"out").exists()


@pytest.mark.parametrize("name", ["a/b", "../../x", "a b", "100 %", "ü", 'say ""x""', "con: *?<>|", "." * 3, "x"*300],
                         ids=lambda name: name[:10])
def test_datasets_and_methods_may_be_called_anything(tmp_path, name):
    result = compared(tmp_path, HEADER + rows(f'"{name}"', methods=("BL", f'"{name}"')))
    written = list((tmp_path/"out").iterdir())
    assert len(written) == 17 and all(path.is_file() for path in written)
    assert set(path.name for path in tmp_path.iterdir()) == {"scores.csv", "out"}
    title = name.replace('""', '"')
    table = pd.read_csv(tmp_path/"out"/"table2.csv", index_col=0)
    assert list(table) == [title] and list(table.index) == ["BL", title] and table[title].tolist() == [-1, 1]
    assert result.datasets[0].dataset == title


def test_patients_that_differ_in_the_last_of_thirty_digits_stay_apart(tmp_path):
    text = HEADER + "".join(f"d,{method},12345678901234567890123456789{i},a,{0.5 + 0.01*i + gain}\n"
                            for i in range(8) for method, gain in (("BL", 0), ("ours", 0.1)))
    assert compared(tmp_path, text).datasets[0].patients == 8


def test_one_patient_two_methods_constants_have_answers(tmp_path):
    single = compared(tmp_path, HEADER + rows(patients=1))
    assert not single.datasets[0].directions.any().any() and single.datasets[0].friedman.pvalue > 0.3
    assert any("no two methods" in note for note in single.warnings)
    ones = "".join(f"d,{method},p{i},a,1\n" for method in ("BL", "ours", "theirs") for i in range(5))
    constant = compared(tmp_path, HEADER + ones)
    assert constant.datasets[0].friedman.pvalue == 1 and (constant.datasets[0].effects.holm == 1).all()
    assert not table2(constant).any().any()
    dropped = compared(tmp_path, HEADER + rows() + "d,BL,p00,c,nan\nd,ours,p00,c,0.5\n", missing="drop")
    assert dropped.datasets[0].patients == 7 and dropped.datasets[0].dropped == 1


def test_lower_is_better_for_a_distance_and_nearest_zero_for_a_signed_error(tmp_path):
    text = HEADER.replace("dsc", "{}") + rows()

    def direction(text, **options):
        return compared(tmp_path, text, **options).datasets[0].directions.loc["ours", "BL"]

    ours = {score: direction(text.format(score), score=score) for score in ("dsc", "nsd", "hd95", "HD95", "assd")}
    assert ours == {"dsc": 1, "nsd": 1, "hd95": -1, "HD95": -1, "assd": -1}
    assert direction(text.format("mine"), score="mine", better="lower") == -1
    signed = "".join(f"d,{method},p{i},{name},{sign*size + 0.01*i}\n" for method, size in (("BL", 5), ("ours", 1))
                     for i in range(8) for name, sign in (("a", 1), ("b", -1)))
    assert direction(HEADER.replace("dsc", "volume_error") + signed, score="volume_error") == 1


def test_slices_as_blocks_warn(tmp_path):
    lines = (f"d,{method},p{i},a,{s},{0.5 + 0.01*s + gain + 0.001*i}\n"
             for method, gain in (("BL", 0), ("ours", 0.1)) for i in range(4) for s in range(6))
    (tmp_path/"scores.csv").write_text(HEADER.replace("class", "class,slice") + "".join(lines))
    with pytest.warns(UserWarning, match="slices of one patient are not independent"):
        result = compare_scores(tmp_path/"scores.csv", tmp_path/"out", blocks="slice")
    assert (len(result.datasets[0].scores), result.datasets[0].patients) == (24, 4)
    assert "not independent" in result.warnings[0]


def test_the_paper_s_rows_and_columns(tmp_path, monkeypatch):
    """26 methods and 18 sub-datasets in any order come out in the paper's; the three formats hold the same table."""
    monkeypatch.setattr("medaug.stats.tables.write_diagrams", lambda comparison, out: [])
    rng = np.random.default_rng(0)
    lines = (f"{dataset},{method},p{i},whole,{rng.random():.4f}\n"
             for dataset in sorted(SUB_DATASETS) for method in sorted(PAPER) for i in range(4))
    result = compared(tmp_path, HEADER + "".join(lines))
    table = pd.read_csv(tmp_path/"out"/"table2.csv", index_col=0)
    assert list(table) == SUB_DATASETS and list(table.index) == PAPER and set(map(str, table.dtypes)) == {"int64"}
    assert (table.to_numpy() == np.column_stack([one.directions.sum(axis=1) for one in result.datasets])).all()
    third = pd.read_csv(tmp_path/"out"/"table3-IBSR18-18.csv", index_col=0, dtype=str)
    assert list(third) == [*PAPER, "Score"] and list(third.index) == PAPER
    written = {ending: (tmp_path/"out"/f"table2.{ending}").read_text().splitlines() for ending in ("md", "tex")}
    markdown = [[field.strip() for field in line.strip("|\n ").split("|")] for line in written["md"]]
    latex = [line.removesuffix(r" \\").split(" & ") for line in written["tex"] if " & " in line]
    assert [line[0] for line in markdown[2:]] == [line[0] for line in latex[1:]] == PAPER
    for lines in (markdown[2:], latex[1:]):
        assert [[int(field) for field in line[1:]] for line in lines] == table.to_numpy().tolist()


@pytest.mark.parametrize("scores", [
    None, "scores.csv", 3, np.zeros((2, 2, 2)), [[0.5], [0.6]], np.zeros((0, 3)), [[0.5, np.nan]], [[0.5, np.inf]],
    [[0.5, "high"]], [[0.5, None]], [[1j, 0.5]], pd.DataFrame([[0.5, 0.6]], columns=["BL", "BL"]),
    pd.DataFrame([[0.5, np.nan]], index=["p\n1"], columns=["B\nL", "ours"]), {"BL": [1, 2], "ours": [1]},
], ids=lambda value: str(value).replace("\n", " ")[:30])
@pytest.mark.parametrize("function", [friedman, nemenyi, directions, paired_effects])
def test_functions_refuse_in_one_line(function, scores):
    with pytest.raises(UserError) as refusal:
        function(scores)
    assert len(str(refusal.value).splitlines()) == 1


SCORES = [[3, 1, 2], [3, 2, 1]]


@pytest.mark.parametrize("scores", [
    pd.DataFrame(SCORES), pd.DataFrame(SCORES, dtype=object), pd.DataFrame([["3", "1", "2"], ["3", "2", "1"]]),
    pd.DataFrame(SCORES, dtype="Int64"), pd.DataFrame(SCORES, index=pd.MultiIndex.from_tuples([("p", 1), ("p", 2)])),
    pd.DataFrame(SCORES, index=["p", "p"]), SCORES,
], ids=["int", "object", "text", "Int64", "MultiIndex", "repeated index", "list"])
def test_any_numbers_and_any_index_are_taken(scores):
    assert friedman(scores).mean_ranks.tolist() == [1, 2.5, 2.5] and friedman(scores).statistic == pytest.approx(3.0)
    assert nemenyi(scores).shape == directions(scores).shape == (3, 3) and len(paired_effects(scores)) == 2
    assert friedman(pd.DataFrame([[True, False], [True, False]])).mean_ranks.tolist() == [1, 2]


@pytest.mark.parametrize("options", [
    dict(methods=1), dict(methods=2.5), dict(methods="26"), dict(patients=0), dict(patients=np.inf),
    dict(patients=np.nan), dict(alpha=1), dict(alpha="x"), dict(effect=0), dict(effect=np.nan), dict(spread=-1),
    dict(target=1), dict(simulations=0), dict(scores=[[1, 2]]), dict(spread=1, scores=[[1, 2], [2, 1]]),
], ids=str)
def test_power_refuses_in_one_line(options):
    with pytest.raises(UserError) as refusal:
        power(**(dict(methods=5, patients=10) | options))
    assert len(str(refusal.value).splitlines()) == 1


def test_the_critical_difference_of_the_paper_s_smallest_studies():
    assert f"{critical_difference(26, 4):.1f}" == "19.9"
    text = power_text(26, 4)
    assert "19.89 ranks; the largest gap possible is 25" in text and "by 0.02 DSC" in text and "(assumed" in text


def test_methods_without_their_baseline_are_named(tmp_path):
    """No paired effect is made up from another baseline: an empty table of effects, and a warning that says why."""
    lone = compared(tmp_path, HEADER + rows(methods=("B-SG + w. + 6", "MC-SG (balanced) + w. + 6")))
    assert lone.datasets[0].effects.empty
    assert lone.warnings[-1] == ("d: no paired effect of B-SG + w. + 6, MC-SG (balanced) + w. + 6, "
                                 "because the table lacks the baseline BL + w.")
    mixed = compared(tmp_path, HEADER + rows(methods=("BL + w.o.", "B-SG + w.o. + 6", "VAE", "B-SG + w. + 6")))
    assert mixed.datasets[0].effects["baseline"].to_dict() == {"B-SG + w.o. + 6": "BL + w.o.", "VAE": "BL + w.o."}
    assert mixed.warnings == ("d: no paired effect of B-SG + w. + 6, because the table lacks the baseline BL + w.",)
