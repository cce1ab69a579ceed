"""The report as a reader meets it: one file that loads nothing, fits, and says no more than its numbers."""
import json
import os
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from medaug.data.datasets import find_dataset
from medaug.data.phantom import write_phantom
from medaug.data.store import write_index, write_stored_patient
from medaug.errors import UserError
from medaug.experiment.folder import ExperimentFolder
from medaug.experiment.plan import Experiment
from medaug.experiment.results import DISTANCE_COLUMNS, SCORE_COLUMNS, write_part
from medaug.experiment.runs import plan_runs
from medaug.files import write_text
from medaug.gan.training import CURVE_COLUMNS
from medaug.report.build import build_joint_report, build_report
from medaug.report.page import write_comparison_page
from medaug.stats import compare, verdict

CHROMIUM = Path("/usr/bin/chromium")
CLASSES = ("necrotic and non-enhancing core", "oedema", "enhancing tumour")


class _Page(HTMLParser):
    """Every start tag of a page with its attributes, and whether every tag that was opened was closed in its place."""
    VOID = {"meta", "link", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def _table(path, columns):
    """The rows of the table of the page at `path` that has these columns, true minus signs made plain."""
    soup = BeautifulSoup(path.read_text(encoding="utf-8").replace("−", "-"), "html.parser")
    tables = [[[cell.text for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]
              for table in soup.find_all("table")]
    return next(rows[1:] for rows in tables if rows[0] == columns)


def _slices(rng, modalities, patients=2):
    labels = np.zeros((4, 16, 16), np.uint8)
    labels[:, 3:9, 3:12], labels[1:3, 5:8, 5:9], labels[2, 6, 6:8] = 1, 2, 3
    return rng.normal(0, 0.3, (4, modalities, 16, 16)) + labels[:, None], labels


def _write_store(path, ids, seed):
    rng = np.random.default_rng(seed)
    for id in ids:
        images, labels = _slices(rng, 4)
        write_stored_patient(path, id, images, labels, labels.transpose(1, 2, 0), np.eye(4))
    write_index(path, "brats20", ["T1w", "T1c", "T2w", "FLAIR"], list(CLASSES), 16, ids)


def _write_outputs(folder, run, ids):
    """What a run of that stage leaves."""
    for output in run.outputs:
        write_text(folder.path/output, "x")
    rng = np.random.default_rng(len(run.name))
    if run.stage == "prepare":
        _write_store(folder.store_path(run), ids, 0)
    if run.stage == "train_gan":
        rows = [[kimg, 0.9, 1.3, 0.2, 0.1, 0.3, 0.1, 0.7] for kimg in (1.0, 2.0, 3.0)]
        write_text(folder.curves(run), pd.DataFrame(rows, columns=CURVE_COLUMNS).to_csv(index=False))
    if run.stage == "generate":
        _write_store(folder.store_path(run), ["patient_0001", "patient_0002"], 1)
        rows = [(m, "Fréchet distance", "random CNN", 3.25, 48, 8) for m in ("T1w", "T1c", "T2w", "FLAIR", "mean")]
        write_part(pd.DataFrame(rows, columns=DISTANCE_COLUMNS[4:10]), folder.part(run), DISTANCE_COLUMNS,
                   dataset="brats20", patients=20, seed=run.parameters["seed"], pipeline=run.parameters["pipeline"])
        write_text(folder.memorisation(run), "Of 8 generated slices none is closer to a training slice than any other.")
    if run.stage == "train_unet":
        write_text(folder.curves(run), "epoch,loss,validation_dsc\n1,-1.0,0.2\n2,-1.5,0.4\n")
        rows = [(f"test{n}", kind, 0.6 + 0.02*n + rng.normal(0, 0.01), 4.0, 0.8) for n in range(8) for kind in CLASSES]
        write_part(pd.DataFrame(rows, columns=["patient", "class", "dsc", "hd95", "nsd"]), folder.part(run),
                   SCORE_COLUMNS, dataset="brats20", patients=20, seed=run.parameters["seed"], method=run.method.name)


def _experiment(path, unfinished=(), unet=None, **plan):
    """An experiment whose runs left what real ones do; those whose name contains a word of `unfinished` failed."""
    experiment = Experiment(dataset="brats20", phantom={"patients": 30, "size": 16, "depth": 4}, patients=(20,),
                            resolution=16, generated=(2, 4), unet={"epochs": 2, "width": 8, **(unet or {})},
                            gan={"kimg": 3}, **plan)
    folder, ids = ExperimentFolder(path), [f"BraTS20_Training_{n:03d}" for n in range(30)]
    folder.write_plan(plan_runs(experiment))
    write_text(folder.experiment_file, "dataset: brats20\n")
    manifest = {"versions": {"torch": "2.13.0"}, "seeds": [0], "splits": {"BraTS20-20-seed0": {"train": ids[:12]}},
                "inputs": {"a": "b"}, "experiment": {"dataset": "brats20"}}
    for run in folder.plan:
        if any(word in run.name for word in unfinished):
            folder.write_state(run, "failed", reason="the disk was full")
        elif run.stage != "compare" and all(map(folder.read_record, run.needs)):
            _write_outputs(folder, run, ids)
            folder.write_record(run, seconds=30.0, device="a processor")
    write_text(folder.manifest_file, json.dumps(manifest | {"comparison": folder.refresh().comparison}))
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return build_report(_experiment(tmp_path_factory.mktemp("experiment")))


def _invented(gain, patients=20, methods=None, datasets=("BraTS20-20",), trainings=3):
    rng, methods = np.random.default_rng(0), methods or ["BL + w.o.", "B-SG + w.o. + 20", "MC-SG + w.o. + 20"]
    level = rng.normal(0.7, 0.06, patients)
    rows = [(dataset, name, f"p{n}", "whole", training, level[n] + gain.get(name, 0) + shift + rng.normal(0, 0.01))
            for dataset in datasets for name in methods for training in range(trainings)
            for shift in [rng.normal(0, 0.002)] for n in range(patients)]
    return pd.DataFrame(rows, columns=["dataset", "method", "patient", "class", "seed", "dsc"])


def test_the_page_is_one_well_formed_file_that_asks_for_nothing(report):
    text = report.read_text(encoding="utf-8")
    page = _Page(text)
    assert report.stat().st_size < 15*2**20
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img")) and page.all("img")
    assert all(link["href"].startswith("data:") for link in page.all("link"))
    assert not page.all("script") and not page.all("iframe")
    assert "url(" not in text and "@import" not in text and "http:" not in text and "https:" not in text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and {link["href"][1:] for link in page.all("a")} <= set(ids)


def test_every_picture_says_what_it_shows_and_every_header_what_it_heads(report):
    page = _Page(report.read_text(encoding="utf-8"))
    texts = [image["alt"] for image in page.all("img")]
    assert len(texts) == len(set(texts)) and all(len(text) > 40 for text in texts)
    assert page.all("th") and all(header["scope"] in ("row", "col") for header in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))


def test_the_report_has_what_an_experiment_is_judged_by(report):
    text = report.read_text(encoding="utf-8")
    for words in ("phantoms", "Uncurated", "T1w, T2w, FLAIR and T1c", "Fréchet distance", "closer to a training slice",
                  "Figure 5", "Table 2", "critical difference", "the paper trained for 70", "torch", "HD95, mm"):
        assert words in text, words
    names = {path.name for path in report.parent.iterdir()}
    assert {"table2.csv", "table3-BraTS20-20.csv", "figure4.png", "figure5.png", "figure5.svg",
            "critical-difference-BraTS20-20.png", "critical-difference-BraTS20-20.svg"} <= names


def test_table_2_on_the_page_is_that_of_the_file(tmp_path):
    path = write_comparison_page(compare(_invented({"B-SG + w.o. + 20": -0.1, "MC-SG + w.o. + 20": 0.1})), tmp_path)
    shown = _table(path, ["method", "BraTS20-20"])
    file = pd.read_csv(tmp_path/"table2.csv")
    expected = [["BL + w.o.", 0], ["B-SG + w.o. + 20", -2], ["MC-SG + w.o. + 20", 2]]
    assert [[name, int(value)] for name, value in shown] == file.to_numpy().tolist() == expected


@pytest.mark.parametrize("gain, kind, words", [
    ({"MC-SG + w.o. + 20": 0.05}, "better", "1 of 2 ways of adding synthetic patients scored better"),
    ({"B-SG + w.o. + 20": -0.05, "MC-SG + w.o. + 20": -0.05}, "worse",
     "2 of 2 ways of adding synthetic patients scored worse")])
def test_the_verdict_follows_from_the_numbers(tmp_path, gain, kind, words):
    comparison = compare(_invented(gain))
    assert verdict(comparison).kind == kind
    text = write_comparison_page(comparison, tmp_path).read_text(encoding="utf-8")
    assert words in text and verdict(comparison).sentence.split(".")[0] in text and "two-sided" in text
    for name, row in comparison["BraTS20-20"].gains.iterrows():
        if row.decision in ("better", "worse"):
            found = f"{name} against BL + w.o.: mean gain {row.difference:+.3f}"
            assert found.replace("-0.", "−0.") in text


def test_a_foreign_method_beside_ours_counts_in_the_verdict(tmp_path):
    methods = ["BL + w.o.", "BL + w.", "MC-SG (balanced) + w.o. + 20", "nnU-Net v2"]
    text = write_comparison_page(compare(_invented({"nnU-Net v2": 0.05}, methods=methods)), tmp_path).read_text()
    assert "1 of 2 methods scored better" in text and "nnU-Net v2 against BL + w.o." in text


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """The report of an unfinished experiment with a recipe and with synthetic patients from elsewhere."""
    root = tmp_path_factory.mktemp("elsewhere")
    write_phantom(find_dataset("brats20"), root, patients=4, size=16, depth=4, seed=9, progress_bar=False)
    folder = _experiment(tmp_path_factory.mktemp("foreign"), ("c-sg", "mc-sg-balanced-w-"), {"recipe": "balanced"},
                         synthetic={"diffusion-1": {"root": str(root)}})
    return build_report(folder)


def test_a_report_builds_with_recipes_foreign_sources_and_unfinished_runs(foreign):
    soup = BeautifulSoup(foreign.read_text(encoding="utf-8"), "html.parser")
    text = " ".join(soup.text.split())
    for words in ("DIFFUSION-1 (balanced) + w. + 4", "DIFFUSION-1 (balanced) adds",
                  "a fixed share of each batch is synthetic", "generated patients added to the real ones",
                  "the disk was full", "methods have no scores"):
        assert words in text, words
    assert "Where training is short" not in text and "as the baseline" not in text     # all U-Nets take as many steps
    legend = foreign.with_name("figure5.svg").read_text(encoding="utf-8")
    for line in ("B-SG (balanced)", "DIFFUSION-1 (balanced)"):
        assert f"{line}, without augmentation" in legend and f"{line}, with augmentation" in legend
    curves = foreign.with_name("unet-curves-BraTS20-20-seed0.svg").read_text(encoding="utf-8")
    assert all(f">{column}<" in curves for column in ("BL", "B-SG (balanced)", "DIFFUSION-1 (balanced)"))
    samples = foreign.with_name("figure4.svg").read_text(encoding="utf-8")
    assert "DIFFUSION-1" in samples and "B-SG" in samples


def test_two_segmenters_are_two_blocks_of_methods_with_a_verdict_each(tmp_path):
    """Before: one verdict over both, 'Does a U-Net segment …', and one budget for both."""
    page = build_report(_experiment(tmp_path, unet={"epochs": None, "steps": 60}, pipelines=("bl", "warp"),
                                    augmentation=("strong",), segmenter=("unet", "nnunet"), seeds=(0, 1),
                                    nnunet={"epochs": 3, "iterations": 10}))
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    text = " ".join(soup.text.split())
    verdicts = [each.text for each in soup.find_all(class_="verdict")]
    assert [each.split(": On ")[0] for each in verdicts] == ["U-Net", "nnU-Net"]
    for words in ("Do a U-Net and nnU-Net segment", "Every U-Net takes 60 optimisation steps",
                  "Every nnU-Net takes 30 optimisation steps", "of nnU-Net plus the cross-entropy",
                  "U-Nets were trained for 60 optimisation steps, whatever data they had, and nnU-Nets were trained "
                  "for 30 optimisation steps", "first layer has 8 channels;"):
        assert words in text, words
    names = ["BL + s.", "WARP + s. + 2", "WARP + s. + 4"]
    names += [name.replace(" + s.", " (nnunet) + s.") for name in names]
    assert [row[0] for row in _table(page, ["method", "BraTS20-20"])] == names
    gains = pd.read_csv(page.with_name("effects-BraTS20-20.csv")).set_index("method")["baseline"]
    assert all(("nnunet" in name) == ("nnunet" in against) for name, against in gains.items()) and len(gains) == 4


def test_results_of_earlier_settings_are_not_shown(tmp_path):
    folder = ExperimentFolder(_experiment(tmp_path))
    write_text(folder.faithfulness, "dataset,patients,seed,pipeline,class,generated,real,ratio,split,fold\n"
               "brats20,20,0,b-sg,mean,0.25,0.5,0.5,0,1\n")
    text = build_report(tmp_path).read_text(encoding="utf-8")
    assert "Mask faithfulness" in text and "no manifest yet" not in text
    _experiment(tmp_path, unfinished=("train_unet",), unet={"width": 16})
    assert folder.faithfulness.is_file()
    text = build_report(tmp_path).read_text(encoding="utf-8")
    assert "Mask faithfulness" not in text and "no manifest yet" in text


@pytest.mark.parametrize("damage", ["garbage\n1\n", 'epoch,loss,validation_dsc\n1,"x\n', "a;b\n1;2\n"])
def test_a_damaged_table_is_named_in_one_line(tmp_path, damage):
    folder = ExperimentFolder(_experiment(tmp_path, augmentation=("without",)))
    for file in (folder.curves(folder.of("train_unet")[0]), folder.faithfulness):
        before = file.read_text() if file.is_file() else ""
        write_text(file, damage)
        with pytest.raises(UserError, match="is damaged") as error:
            build_report(tmp_path)
        assert error.value.where == str(file)
        write_text(file, before)


def test_an_unfinished_experiment_says_what_is_missing(tmp_path):
    folder = _experiment(tmp_path, unfinished=("c-sg", "train_unet-BraTS20-20-seed0-bl-w"))
    text = build_report(folder).read_text(encoding="utf-8")
    assert "methods have no scores" in text and "the disk was full" in text and "MC-SG + w. + 4" in text
    assert "Figure 5" in text


def test_the_runs_of_a_search_have_no_report_of_their_own(tmp_path):
    """A run without a comparison was an IndexError, and `medaug run` had named that very command."""
    folder = ExperimentFolder(_experiment(tmp_path, augmentation=("without",)))
    folder.plan_file("compare").unlink()
    with pytest.raises(UserError, match="compares no methods"):
        build_report(tmp_path)
    with pytest.raises(UserError, match="compares no methods"):
        build_joint_report([tmp_path], tmp_path/"joint")


def test_an_experiment_without_scores_has_a_report(tmp_path):
    text = build_report(_experiment(tmp_path, unfinished=("train_",))).read_text(encoding="utf-8")
    assert "nothing to compare yet" in text and "10 of 10 methods have no scores" in text and "Figure 5" not in text


FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists() and not os.environ.get("CI"):
        pytest.skip("there is no /usr/bin/chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


def _opened(browser, path, scheme="light", width=1100):
    """The page in the browser without a network; `asked` and `complaints` hold what it asks for and complains of."""
    context = browser.new_context(offline=True, color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.complaints.extend([message.text]*(message.type in ("error", "warning"))))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    return page


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Odd and long names, 26 methods: the page at its widest."""
    methods = [f"{name} <with> a long & odd name {n}" for n, name in enumerate(["BL"] + ["method"]*25)]
    table = _invented({methods[3]: 0.1, methods[4]: -0.1}, 30, methods, ("one", "another"))
    return write_comparison_page(compare(table), tmp_path_factory.mktemp("wide"), table)


@pytest.mark.parametrize("scheme, width", [("light", 1100), ("dark", 1100), ("light", 420)])
@pytest.mark.parametrize("which", ["report", "wide", "foreign"])
def test_the_page_opens_without_a_network_and_fits_and_can_be_read_by_everybody(browser, request, which, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    path = request.getfixturevalue(which)
    page = _opened(browser, path, scheme, width)
    assert [url for url in page.asked if not url.startswith("data:")] == [path.as_uri()] and page.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    found = Axe().run(page).response
    assert [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in found["violations"]] == []
    checked = {rule["id"] for rule in found["passes"]}
    assert {"color-contrast", "image-alt"} <= checked
    page.context.close()


def test_folded_chapters_open_by_keyboard(browser, report):
    page = _opened(browser, report)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = false)")
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.evaluate("one => one.open")
    page.context.close()


def test_what_is_folded_on_the_screen_is_there_in_print(browser, report):
    page = _opened(browser, report)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = false)")
    visible = "[...document.querySelectorAll('details > :not(summary)')].map(one => one.checkVisibility())"
    assert not any(page.evaluate(visible))
    page.emulate_media(media="print")
    assert all(page.evaluate(visible)) and not page.locator("nav").is_visible()
    page.context.close()
