"""The documentation, built without Quarto: links, names, docstrings, and every block of code that a page shows.

The build takes the notebooks' own outputs (`--execute none`); what is published executes all of them first.
"""
import ast
import functools
import importlib
import inspect
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import yaml
from conftest import CHECKOUT

import medaug

pytestmark = pytest.mark.xdist_group("docs")
NBS = CHECKOUT/"nbs"
NOTEBOOKS = [path for path in sorted(NBS.rglob("*.ipynb"))
             if not any(part.startswith((".", "_")) for part in path.relative_to(NBS).parts)]
REPOSITORY = "https://github.com/medaug/medaug/blob/main/"


class _Page(HTMLParser):
    """What a page has: its ids, its links, what it loads, and its pictures without a description."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.undescribed, self.words = set(), [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {value for key, value in attributes if key in ("id", "name") and value}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "modulepreload"):
            self.loads.append(given["href"])
        elif given.get("src"):
            self.loads.append(given["src"])
        if tag == "img" and not given.get("alt"):
            self.undescribed.append(given.get("src"))

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built pages, built as a user would."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, NBS/"_build_docs.py", folder/"site", "--execute", "none"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder/"site"


@pytest.fixture(scope="module")
def pages(site):
    """The pages, by their place below the site."""
    return {path.relative_to(site).as_posix(): _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_no_dead_link_or_anchor(site, pages):
    dead = []
    for name, page in pages.items():
        for link in page.links:
            url = urlparse(link)
            if url.scheme or url.netloc:
                continue
            target = (site/name).parent/unquote(url.path) if url.path else site/name
            place = Path(*target.resolve().relative_to(site.resolve()).parts).as_posix()
            no_anchor = url.fragment and place in pages and unquote(url.fragment) not in pages[place].ids
            if not target.is_file() or no_anchor:
                dead.append(f"{name}: {link}")
    assert not dead, dead[:20]


def test_links_to_the_source_lead_to_the_definition(pages):
    seen = {link for page in pages.values() for link in page.links if link.startswith(REPOSITORY) and "#L" in link}
    assert len(seen) > 200
    for link in seen:
        path, _, line = link.removeprefix(REPOSITORY).partition("#L")
        text = (CHECKOUT/path).read_text().splitlines()[int(line) - 1]
        assert re.match(r"\s*(@|def |class |async def )", text), (link, text)


def test_a_page_loads_nothing_from_elsewhere(site, pages):
    elsewhere = [f"{name}: {load}" for name, page in pages.items() for load in page.loads if urlparse(load).netloc]
    foreign = r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")]+)"
    styles = [f"{path.name}: {url}" for path in site.rglob("*.css") for url in re.findall(foreign, path.read_text())]
    assert not elsewhere + styles


def test_every_page_stands_in_the_sidebar_once():
    """Where a notebook is new: give it its place in the sidebar of _quarto.yml."""
    sidebar = yaml.safe_load((CHECKOUT/"_quarto.yml").read_text())["website"]["sidebar"]["contents"]
    named = [item for entry in sidebar for item in ([entry] if isinstance(entry, str) else entry["contents"])]
    assert sorted(named) == sorted(path.relative_to(NBS).as_posix() for path in NOTEBOOKS)
    assert (CHECKOUT/"nbs/_quarto.yml").samefile(CHECKOUT/"_quarto.yml"), "the one in nbs is a link, not a copy"


def test_the_sidebar_leads_everywhere_and_formulas_and_figures_are_there(site, pages):
    front = (site/"index.html").read_text()
    for place in ("tutorials/tour.html", "data/datasets.html", "stats/ranks.html", "method.html"):
        assert f'href="{place}"' in front, place
    assert "<math" in (site/"stats"/"ranks.html").read_text()
    assert len(list((site/"_images").iterdir())) > 20
    assert not [f"{name}: {source}" for name, page in pages.items() for source in page.undescribed]


def test_imports_and_tests_are_folded_and_exported_code_is_shown(site):
    """A reader sees the idea, the code and the result."""
    page = (site/"stats"/"effects.html").read_text()
    parts = re.findall(r"<details( open)?>\s*<summary>(\w+)</summary>(.*?)</details>", page, re.S)
    text = {summary: re.sub("<[^>]+>", "", "".join(code for _, name, code in parts if name == summary))
            for _, summary, _ in parts}
    assert set(text) == {"Code", "Test"} and {summary for is_open, summary, _ in parts if is_open} == {"Code"}
    assert "def _wilcoxon_pvalue" in text["Code"] and "test_eq(" in text["Test"]
    outside = re.sub("<[^>]+>", "", re.sub(r"<details.*?</details>", "", page, flags=re.S))
    assert "import numpy" not in outside and "test_eq(" not in outside and "axes.plot(" in outside


def test_no_page_shows_bars_temporary_folders_or_figures_without_a_picture(pages):
    """The page `progress` alone shows bars."""
    found = []
    for name, page in pages.items():
        for text in page.words:
            wrong = re.search(r"\d%\||/tmp/tmp|<Figure size|numpy\._typing", text)
            if wrong and name != "progress.html":
                found.append(f"{name}: {text[max(wrong.start() - 60, 0):wrong.end() + 60]!r}")
    assert not found, "\n".join(found)


def test_outputs_are_tidied_and_long_imports_folded():
    sys.path.insert(0, str(NBS))
    import nbformat
    from _build_docs import tidy_outputs, without_imports

    out = lambda text: nbformat.v4.new_output("stream", name="stdout", text=text)
    bars = ["before\n", "\rU-Net:   0%| | 0/2", "\rU-Net: 100%|##| 2/2", "\n", "/tmp/tmpab_1/x.nii: is empty\n"]
    assert [output.text for output in tidy_outputs(list(map(out, bars)))] == ["before\nx.nii: is empty\n"]
    assert tidy_outputs(list(map(out, bars[1:4]))) == []
    kept, = tidy_outputs(list(map(out, bars[1:4])), "for _ in progress(range(2)): pass")
    assert kept.text.strip() == "U-Net: 100%|##| 2/2"
    cell = nbformat.v4.new_code_cell("import a\nimport b\nfrom c import (\n    d)\n\nd(1)")
    assert [part.source for part in without_imports(cell)] == ["import a\nimport b\nfrom c import (\n    d)", "d(1)"]
    short = nbformat.v4.new_code_cell("from c import d\n\nd(1)")
    assert [part.source for part in without_imports(short)] == ["from c import d\n\nd(1)"]


@pytest.fixture(scope="module")
def browser():
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists() and "CI" not in os.environ:
        pytest.skip("there is no chromium")
    from lab import FLAGS
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium), args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["index.html", "data/store.html", "stats/trainings.html", "method.html"])
def test_a_page_fits_and_can_be_read_by_everybody(browser, site, name, width):
    """Wide tables scroll in their own box; on a desktop no line of code is cut."""
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((site/name).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    cut = page.evaluate("[...document.querySelectorAll('article .highlight-python pre')].filter(one => "
                        "one.checkVisibility() && one.scrollWidth > one.clientWidth + 2).map(one => one.innerText)")
    assert width < 1000 or not cut, cut
    place = page.evaluate("""() => { const link = document.querySelector('.sidebar-tree .current-page'),
        box = document.querySelector('.sidebar-scroll').getBoundingClientRect();
        const top = link && link.getBoundingClientRect().top;
        return !link || [top - box.top, box.bottom - top] }""")
    assert place is True or min(place) >= 0
    faults = [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in Axe().run(page).response["violations"]
              if fault["impact"] in ("serious", "critical")]
    assert faults == []
    page.close()


def test_search_finds(site):
    index = (site/"searchindex.js").read_text()
    found = json.loads(index[index.index("(") + 1:index.rindex(")")])
    for word, page in (("nemenyi", "stats/ranks"), ("truncat", "gan/networks"),
                       ("fingerprint", "evaluation/memorisation")):
        numbers = set()
        for terms in (found["terms"], found["titleterms"]):
            for term in (term for term in terms if term.startswith(word)):
                numbers |= set(terms[term] if isinstance(terms[term], list) else [terms[term]])
        assert page in {found["docnames"][number] for number in numbers}, word


def test_the_build_ends_the_kernel_of_each_notebook(tmp_path):
    """A kernel is a child of the process that executes a notebook."""
    path = tmp_path/"one.ipynb"
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": None, "outputs": [], "source": "6*7"}
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    code = ("import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\nimport psutil\n"
            "from _build_docs import execute\nexecute(Path(sys.argv[2]), Path(sys.argv[3]), 'package')\n"
            "every = psutil.Process().children(recursive=True)\n"
            "left = [one for one in every if 'ipykernel' in ' '.join(one.cmdline())]\n"
            "sys.exit(len(left))")
    done = subprocess.run([sys.executable, "-c", code, NBS, path, tmp_path/"cache"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "42" in json.dumps(json.loads(path.read_text())["cells"][0]["outputs"])


# --- names and docstrings ---------------------------------------------------------------------------------------------

@functools.cache
def public():
    """(module, name, value) of everything in every module's __all__."""
    found = []
    for info in pkgutil.walk_packages(medaug.__path__, "medaug."):
        if info.name.split(".")[-1].startswith("_"):
            continue
        module = importlib.import_module(info.name)
        found += [(info.name, name, getattr(module, name)) for name in getattr(module, "__all__", ())]
    return found


INDEX = importlib.import_module("medaug._modidx").d["syms"]


def _own(module, value, name):
    """Whether a public name is a function or a class written in that module."""
    return callable(value) and getattr(value, "__module__", None) == module and f"{module}.{name}" in INDEX[module]


def test_every_public_name_is_documented_on_its_page(pages):
    """A function or class has a heading of its own, anything else a line on its module's page."""
    missing = []
    for module, name, value in public():
        if _own(module, value, name):
            page = INDEX[module][f"{module}.{name}"][0].partition("#")[0]
            target = re.sub(r"[/._]", "-", f"{page.removesuffix('.html')}.{name}").lower()
            target += "-class" if name[0].isupper() else ""
            there = target in {re.sub(r"[^a-z0-9]+", "-", id.lower()) for id in pages[page].ids}
        else:
            there = any(name in page.words for page in pages.values())
        missing += [] if there else [f"{module}.{name}"]
    assert not missing


def test_every_parameter_stands_in_a_table(pages):
    missing = []
    for module, name, value in public():
        if _own(module, value, name) and inspect.isfunction(value):
            words = pages[INDEX[module][f"{module}.{name}"][0].partition("#")[0]].words
            missing += [f"{module}.{name}: {parameter}" for parameter in inspect.signature(value).parameters
                        if parameter not in ("args", "kwargs") and parameter not in words]
    assert not missing


ARRAYS = {"images", "labels", "slices", "volume", "mask", "cond", "z", "ws", "w", "logits", "real_logits",
          "fake_logits", "vectors", "one_hot", "probabilities", "predicted",
          "true", "queries", "sigma", "mu1", "x", "image", "array", "voxels", "matrices", "differences", "pvalues"}
SHAPE = re.compile(r"\((?:columns|[A-Z…][\w·+]*|\d+|patients|rows|methods|n|m|…)(?:,\s*[^()]*)?\)|shape|DataFrame"
                   r"|a row a|one row per|in the order given|one array|scalar|number of|one number a", re.S)
FAILS = {"UserError", "ValueError", "LeakError"}


def _raises(function):
    """The names of the exceptions of ours that a function raises in its own lines."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    raised = {ast.unparse(one.func if isinstance(one, ast.Call) else one) for one in raised}
    return raised & FAILS


def test_public_docstrings_say_shapes_and_errors():
    """Who takes an array says its shape; who raises an error that a caller can cause says so."""
    silent = []
    for module, name, value in public():
        if not _own(module, value, name):
            continue
        doc = inspect.getdoc(value) or ""
        if not doc or doc.startswith(f"{name}("):
            silent.append(f"{module}.{name} has no docstring")
        elif inspect.isfunction(value):
            if ARRAYS & set(inspect.signature(value).parameters) and not SHAPE.search(doc):
                silent.append(f"{module}.{name} takes an array and names no shape")
            if _raises(value) and not re.search(r"Error|[Rr]aises|mistake of the user is shown", doc):
                silent.append(f"{module}.{name} raises {', '.join(_raises(value))} and doesn't say so")
    assert not silent, "\n".join(silent)


# --- blocks of code ---------------------------------------------------------------------------------------------------

def _blocks():
    """(where, language, text) of every fenced block in the text of a notebook or the README."""
    texts = [(path.relative_to(CHECKOUT).as_posix(), "".join(cell["source"])) for path in NOTEBOOKS
             for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown"]
    for where, text in [*texts, ("README.md", (CHECKOUT/"README.md").read_text())]:
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M):
            yield where, language, block


def test_shell_lines_are_commands_that_there_are():
    from medaug.cli import parser

    checked = 0
    for where, language, text in _blocks():
        for line in text.replace("\\\n", " ").splitlines() if language in ("sh", "bash", "shell") else ():
            words = shlex.split(line.partition(" > ")[0], comments=True)
            if words and words[0] == "medaug" and words[1:] not in (["--help"], ["--version"]):
                parser().parse_args(words[1:])
            elif words and words[0] == "python":
                assert (CHECKOUT/words[1]).is_file(), (where, line)
            checked += bool(words)
    assert checked > 15


def test_yaml_blocks_are_experiments_or_rows(tmp_path, monkeypatch):
    from medaug.data.datasets import find_dataset
    from medaug.experiment.plan import read_experiment

    monkeypatch.chdir(tmp_path)
    blocks = [(where, text) for where, language, text in _blocks() if language == "yaml"]
    rows = [text for _, text in blocks if re.search(r"^modalities:", text, re.M)]
    for text in rows:
        path = Path(f"{yaml.safe_load(text)['name']}.yaml")
        path.write_text(text)
        find_dataset(path)
    for where, text in blocks:
        if re.search(r"^dataset:", text, re.M):
            Path("experiment.yaml").write_text(text)
            read_experiment("experiment.yaml")
        else:
            assert text in rows, f"{where}: a block that is neither an experiment nor a dataset's row:\n{text}"
    assert len(blocks) >= 3


def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for where, language, text in _blocks():
        if language in ("python", "py"):
            exec(compile(text, where, "exec"), {"__name__": "block"})
