"""Builds the documentation from the notebooks, with Sphinx or with Quarto, from one `_quarto.yml`.

python nbs/_build_docs.py [OUT] [--execute all|none|PATTERN …] [--jobs N] [--cache DIR] [--quarto]

Notebooks are executed first, so that every figure on a page is of the code beside it; what has not changed is taken from
the cache. Then nbdev's own processing (`proc_nbs`), then the pages. Nothing in the checkout but OUT and the cache is written.
It lies beside the notebooks because it is about them, and is no part of the package: whoever installs medaug reads the docs,
who writes it builds them. The underscore keeps it out of nbdev's way.
"""
import argparse
import contextlib
import fnmatch
import hashlib
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
import yaml
from nbdev.showdoc import BasicMarkdownRenderer

CHECKOUT = Path(__file__).resolve().parent.parent
COPIED = ("nbs", "medaug", "benchmarks", "tests/data", "settings.ini", "setup.py", "_quarto.yml", "README.md", "LICENSE")
SITE = "https://medaug.github.io/medaug/"


# --- the parameter table -----------------------------------------------------------------------------------------------

def _clauses(text):
    """The clauses of a docstring, cut at full stops and semicolons, each on one line."""
    return [" ".join(clause.split()) for clause in re.split(r"(?<=[.;])\s+|\n\n", text)]


def _said_of(name, text):
    """The first clause of a docstring that names the parameter in backticks."""
    return next((clause for clause in _clauses(text) if re.search(rf"`{re.escape(name)}(`|[ =(,])", clause)), "")


def signature_text(sym):
    """How a callable is called, as one line or, where that is long, one parameter a line."""
    try:
        signature = inspect.signature(sym)
    except (ValueError, TypeError):
        return sym.__name__
    bare = [p.replace(annotation=p.empty) for name, p in signature.parameters.items() if name != "self"]
    shown = [re.sub(r"<[\w ]*factory[\w ]*>", "…", str(p)) for p in bare]
    head = f"{'class ' if inspect.isclass(sym) else ''}{sym.__name__}"
    one = f"{head}({', '.join(shown)})"
    return one if len(one) <= 100 else f"{head}(\n    " + ",\n    ".join(shown) + ")"


def _in_a_cell(value):
    return value.replace("|", "\\|").replace("\n", " ")


def _shown(value):
    shown = getattr(value, "__name__", None) or repr(value)
    return "" if value is inspect.Parameter.empty else f"`{_in_a_cell(shown if len(shown) < 60 else shown[:57] + '…')}`"


def _table(head, rows):
    """A Markdown table without the columns that are empty; nothing where there are no rows."""
    kept = [i for i, _ in enumerate(head) if any(row[i] for row in rows)]
    lines = [head, ["---"]*len(head), *rows]
    return "\n".join("| " + " | ".join(line[i] for i in kept) + " |" for line in lines) if rows else ""


def parameter_table(sym):
    """The Markdown table of a callable's parameters: name, type, default, and what the docstring says of each."""
    try:
        parameters = [p for p in inspect.signature(sym).parameters.values() if p.name not in ("self", "args", "kwargs", "data")]
    except (ValueError, TypeError):
        return ""
    doc, rows = inspect.getdoc(sym) or "", []
    for p in parameters:
        kind = "" if p.annotation is p.empty else f"`{_in_a_cell(inspect.formatannotation(p.annotation)).strip(chr(39))}`"
        factory = "factory" in repr(p.default)
        rows.append([f"`{p.name}`", kind, "computed" if factory else _shown(p.default), _in_a_cell(_escaped(_said_of(p.name, doc)))])
    return _table(["parameter", "type", "default", "in words"], rows)


def _escaped(text):
    """Docstring text as Markdown: outside backticks nothing is markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if i % 2 else re.sub(r"([*_<>\[\]])", r"\\\1", part) for i, part in enumerate(parts))


def _members(sym):
    """A list of the documented public methods and properties that a class defines itself."""
    if not inspect.isclass(sym):
        return ""
    found = []
    for name, value in vars(sym).items():
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if not name.startswith("_") and inspect.isfunction(function) and inspect.getdoc(function):
            call = "" if isinstance(value, property) else str(inspect.signature(function)).replace("(self, ", "(").replace("(self)", "()")
            found.append(f"- `.{name}{call}`: {_escaped(' '.join(inspect.getdoc(function).split()))}")
    return "\n".join(found)


class Renderer(BasicMarkdownRenderer):
    """nbdev's `show_doc`, with the docstring as it is written, a parameter table, and a class's methods."""

    def _repr_markdown_(self):
        head = super()._repr_markdown_()
        head = head[:head.index("```python")]
        parts = [f"```python\n{signature_text(self.sym)}\n```", _escaped(inspect.getdoc(self.sym) or ""), parameter_table(self.sym), _members(self.sym)]
        return head + "\n\n".join(part for part in parts if part)


# --- execution ---------------------------------------------------------------------------------------------------------

def _content(*paths):
    """A hash of what files hold."""
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()


def _stands_still(cell):
    return cell.cell_type == "code" and re.search(r"^#\|\s*eval:\s*false", cell.source, re.M)


def tidy_outputs(outputs):
    """Outputs for reading: printed text in one piece, without progress bars, the complaints of libraries, and temporary folders."""
    tidy = []
    for output in outputs:
        if output.output_type == "stream":
            text = re.sub(rf"{re.escape(tempfile.gettempdir())}/tmp\w+/", "", output.text)
            text = "".join(line for line in text.splitlines(True) if output.name == "stdout" or line.startswith("medaug:"))
            if text and tidy and tidy[-1].output_type == "stream":
                tidy[-1].text += text
            elif text:
                tidy.append(nbformat.v4.new_output("stream", name="stdout", text=text))
        else:
            tidy.append(output)
    return tidy


def execute(path, cache, package):
    """Executes one notebook in place, or takes its outputs from `cache`, whose key is what the notebook and the `package` hold."""
    kept = cache/f"{_content(path)[:16]}-{package[:16]}.ipynb"
    if kept.is_file():
        shutil.copyfile(kept, path)
        return
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    still = [cell for cell in notebook.cells if _stands_still(cell)]
    for cell in still:
        cell.cell_type = "raw"
    with tempfile.TemporaryDirectory() as sockets:      # files, because two kernels that start at once may choose the same port
        manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        NotebookClient(notebook, km=manager, timeout=1200, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in still:
        cell.cell_type = "code"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = tidy_outputs(cell.outputs)
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, path)
    cache.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, kept.with_suffix(".part"))
    kept.with_suffix(".part").replace(kept)


def _chosen(work, patterns):
    """The notebooks below `work`/nbs that are executed: those of `patterns`, without the runs, whose pages say skip_exec."""
    if patterns == ["none"]:
        return []
    names = {path.relative_to(work/"nbs").as_posix(): path for path in sorted((work/"nbs").rglob("*.ipynb"))}
    return [path for name, path in names.items() if "skip_exec: true" not in path.read_text()
            and (patterns == ["all"] or any(fnmatch.fnmatch(name, pattern) for pattern in patterns))]


def execute_notebooks(work, patterns, cache, jobs):
    """Executes the chosen notebooks of a working copy, `jobs` at a time."""
    package = _content(*sorted(path for path in (work/"medaug").rglob("*") if path.suffix in (".py", ".yaml")))
    os.environ.pop("MPLBACKEND", None)
    paths = _chosen(work, patterns)
    with ProcessPoolExecutor(max(jobs, 1)) as pool:
        for path, _ in zip(paths, pool.map(partial(execute, cache=cache, package=package), paths)):
            print(f"executed: {path.relative_to(work/'nbs')}", flush=True)


# --- what nbdev's processing leaves, completed -------------------------------------------------------------------------

def working_copy(folder):
    """A copy of the checkout's sources at `folder`, whose settings name our renderer."""
    for name in COPIED:
        source, target = CHECKOUT/name, folder/name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        elif source.is_file():
            shutil.copyfile(source, target)
    with open(folder/"settings.ini", "a", encoding="utf-8") as file:
        file.write("renderer = _build_docs.Renderer\n")
    return folder


def process(work):
    """nbdev's processing of a working copy; returns the folder of processed notebooks.

    In this process (`n_workers=0`): nbdev's workers import everything anew for each notebook, which takes four times as long.
    """
    from nbdev.serve import proc_nbs

    with contextlib.chdir(work):
        return Path(proc_nbs(n_workers=0, force=True))


def front_matter(notebook):
    """The values of a processed notebook's front matter."""
    first = notebook.cells[0]
    return yaml.safe_load(first.source.strip().strip("-")) if first.cell_type == "raw" else {}


def module_of(notebook):
    """The module that a notebook exports, or None."""
    found = [re.search(r"^#\|\s*default_exp\s+(\S+)", cell.source, re.M) for cell in notebook.cells if cell.cell_type == "code"]
    return next((f"medaug.{match[1]}" for match in found if match), None)


def _one_line(value):
    shown = re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))
    return f"`{_in_a_cell(shown if len(shown) <= 120 else shown[:119] + '…')}`"


def constants_cell(name):
    """A Markdown cell on the public names of the module `name` that are no functions or classes of its own; None where there are none."""
    from medaug._modidx import d

    module, rows = importlib.import_module(name), []
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        home = getattr(value, "__module__", name)
        if not (callable(value) and home == name and f"{name}.{public}" in d["syms"][name]):
            elsewhere = callable(value) and home.startswith("medaug.") and home != name
            rows.append(f"| `{public}` | {f'of [`{home}.{public}`]({doc_link(home, public)})' if elsewhere else _one_line(value)} |")
    text = "\n".join(["## Other public names", "", "| name | value |", "|---|---|", *rows])
    return nbformat.v4.new_markdown_cell(text) if rows else None


def doc_link(module, name):
    """Where the published site has a public name of a module."""
    from medaug._modidx import d

    return SITE + d["syms"][module][f"{module}.{name}"][0]


def complete(work, processed):
    """Adds to each processed page what nbdev leaves out: the names that are not functions or classes."""
    for path in sorted(processed.rglob("*.ipynb")):
        name = module_of(nbformat.read(work/"nbs"/path.relative_to(processed), as_version=4))
        cell = constants_cell(name) if name else None
        if cell:
            notebook = nbformat.read(path, as_version=4)
            notebook.cells.append(cell)
            nbformat.write(notebook, path)


# --- pages for Sphinx --------------------------------------------------------------------------------------------------

def anchor(page, name):
    """The target of a public name on a page; a class and a function whose names differ in capitals have two."""
    return f"{page}.{name}".replace("/", ".").lower() + ("-class" if name[:1].isupper() else "")


def page_of(path, processed):
    """The page (without suffix) of a processed notebook, as nbdev names it: data/07_splits.ipynb is data/splits."""
    matter = front_matter(nbformat.read(path, as_version=4))
    return (path.relative_to(processed).parent/Path(matter.get("output-file", path.stem)).stem).as_posix()


def _local(text, pages, here=""):
    """Links to the published site, or from the folder `here` to notebooks, as links between the pages of this build; `pages` maps notebooks to pages."""
    def notebook(match):
        page = pages.get(os.path.normpath(os.path.join(here, match["path"])))
        return f"[{match['text']}](/{page}.md)" if page else match[0]

    def symbol(match):
        page, name = match["page"], match["text"].strip("`").removesuffix("()").rpartition(".")[2]
        if name.startswith("_"):
            return match["text"]
        return match[0] if page not in pages.values() else f"[{match['text']}]({'#' + anchor(page, name) if match['name'] else f'/{page}.md'})"

    text = re.sub(r"\{target=\"_blank\"[^}]*\}", "", text)
    text = re.sub(r"\[(?P<text>[^\]]+)\]\((?P<path>[^):#]+\.ipynb)\)", notebook, text)
    return re.sub(rf"\[(?P<text>[^\]]+)\]\({re.escape(SITE)}(?P<page>[^)#]*?)\.html(?:#(?P<name>[^)]+))?\)", symbol, text)


def _documented(text, page):
    """The output of `show_doc` with a target before its heading."""
    return re.sub(r"^---\n\n((?:\[source\].*\n\n)?)(#+) (\S+)$", lambda m: f"({anchor(page, m[3])})=\n{m[2]} {m[3]}\n\n{m[1].rstrip()}\n", text, count=1, flags=re.M)


def _shown_cells(notebook, page, pages, here):
    """The cells of a processed notebook as its page shows them."""
    for cell in notebook.cells:
        directives = re.findall(r"^#\|\s*(.*)$", cell.source, re.M)
        cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip("\n") if cell.cell_type == "code" else cell.source
        if cell.cell_type == "code" and cell.source.startswith("show_doc("):
            text = "".join("".join(output.data.get("text/markdown", "")) for output in cell.outputs if "data" in output)
            yield nbformat.v4.new_markdown_cell(_local(_documented(text, page), pages, here))
        elif cell.cell_type == "markdown":
            cell.source = _local(cell.source, pages, here)
            yield cell
        elif cell.cell_type == "code" and (cell.source or cell.outputs):
            for output in cell.outputs:
                if "text/markdown" in output.get("data", {}):
                    output.data["text/markdown"] = _local("".join(output.data["text/markdown"]), pages, here)
            cell.metadata["hide_input"] = "echo: false" in directives
            cell.source = "" if cell.metadata["hide_input"] else cell.source
            yield cell


def _described_figures(text):
    """Figures whose alternative text is the heading that they stand under."""
    heading, lines = "", []
    for line in text.split("\n"):
        heading = line.lstrip("#").strip() if re.match(r"#+ ", line) else heading
        lines.append(re.sub(r"^!\[(?:png|svg|jpeg)\]\(", lambda _: f"![{heading}](", line))
    return "\n".join(lines)


def write_page(path, page, pages, source, here):
    """Writes the Markdown page of one processed notebook, and its figures, below `source`."""
    from nbconvert import MarkdownExporter

    notebook = nbformat.read(path, as_version=4)
    matter = front_matter(notebook)
    title = [nbformat.v4.new_markdown_cell(f"# {matter.get('title', page)}\n\n> {matter.get('description', '')}")] if matter else []
    notebook.cells = title + list(_shown_cells(notebook, page, pages, here))
    notebook.metadata["language_info"] = {"name": "python"}
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"unique_key": Path(page).name, "output_files_dir": f"{Path(page).name}_files"})
    text = re.sub(r"```python\n\s*```\n", "", text)
    target = source/f"{page}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_described_figures(text), encoding="utf-8")
    for name, content in resources["outputs"].items():
        (target.parent/name).parent.mkdir(parents=True, exist_ok=True)
        (target.parent/name).write_bytes(content)


def _toctrees(contents, page_names):
    """The toctrees of the sidebar of `_quarto.yml`: one for each section, its title the caption."""
    for entry in contents:
        entry = {"section": "", "contents": [entry]} if isinstance(entry, str) else entry
        pages = [page_names[item] for item in entry["contents"] if page_names[item] != "index"]
        if pages:
            yield "\n".join(["```{toctree}", f":caption: {entry['section']}" if entry["section"] else "", ":hidden:", "", *(f"/{page}" for page in pages), "```"])


def write_sphinx_source(processed, source):
    """Writes the pages, the toctrees and the configuration that Sphinx builds from; returns the website's part of `_quarto.yml`."""
    website = yaml.safe_load((processed/"_quarto.yml").read_text())["website"]
    page_names = {path.relative_to(processed).as_posix(): page_of(path, processed) for path in sorted(processed.rglob("*.ipynb"))}
    for name, page in page_names.items():
        write_page(processed/name, page, page_names, source, os.path.dirname(name))
    for path in processed.rglob("*"):
        if path.suffix in (".png", ".svg", ".jpg", ".css"):
            (source/path.relative_to(processed)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, source/path.relative_to(processed))
    with open(source/"index.md", "a", encoding="utf-8") as file:
        file.write("\n\n" + "\n\n".join(_toctrees(website["sidebar"]["contents"], page_names)) + "\n")
    return website


def _math(self, node, display):
    """A formula as MathML, which browsers draw without a script."""
    from docutils import nodes
    from latex2mathml.converter import convert

    self.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app):
    """Sphinx reads this as an extension: formulas as MathML."""
    app.add_html_math_renderer("mathml", (partial(_math, display="inline"), None), (partial(_math, display="block"), None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def build_with_sphinx(source, out, website):
    """Builds the HTML; returns Sphinx's warnings as one text, which is empty when all is well."""
    import io

    from sphinx.application import Sphinx

    settings = {"extensions": ["myst_parser", "_build_docs"], "project": website["title"], "html_title": website["title"], "html_theme": "furo", "language": "en",
                "html_math_renderer": "mathml", "myst_enable_extensions": ["dollarmath", "attrs_inline"], "myst_heading_anchors": 4,
                "myst_dmath_double_inline": True, "highlight_language": "none", "html_copy_source": False, "html_show_sourcelink": False,
                "html_show_sphinx": False, "html_use_index": False, "suppress_warnings": ["myst.header", "misc.highlighting_failure"], "html_baseurl": website["site-url"]}
    warnings = io.StringIO()
    app = Sphinx(str(source), None, str(out), str(source/".doctrees"), "html", confoverrides=settings, status=None, warning=warnings)
    app.build()
    return warnings.getvalue()


def build(out, patterns=("all",), jobs=2, cache=CHECKOUT/"_proc"/"executed", quarto=False):
    """Builds the docs into `out`; returns the warnings."""
    with tempfile.TemporaryDirectory() as folder:
        work = working_copy(Path(folder)/"checkout")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(work), str(work/"nbs"), os.environ.get("PYTHONPATH", "")])
        sys.path[:0] = [str(work), str(work/"nbs")]
        execute_notebooks(work, list(patterns), Path(cache), jobs)
        processed = process(work)
        complete(work, processed)
        if quarto:
            subprocess.run(["quarto", "render", processed, "--output-dir", out], check=True)
            return ""
        return build_with_sphinx(work/"source", out, write_sphinx_source(processed, work/"source"))


def main():
    parser = argparse.ArgumentParser(description="Build the documentation from the notebooks.")
    parser.add_argument("out", nargs="?", type=Path, default=CHECKOUT/"_docs")
    parser.add_argument("--execute", nargs="+", default=["all"], metavar="PATTERN", help="which notebooks to execute first: all, none, or patterns such as tutorials/* (default: all)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="notebooks executed at a time (default: 2)")
    parser.add_argument("--cache", type=Path, default=CHECKOUT/"_proc"/"executed", metavar="DIR", help="where executed notebooks are kept")
    parser.add_argument("--quarto", action="store_true", help="hand the pages to Quarto in place of Sphinx")
    given = parser.parse_args()
    warnings = build(given.out.resolve(), given.execute, given.jobs, given.cache.resolve(), given.quarto)
    print(warnings or f"built: {given.out}/index.html", file=sys.stderr if warnings else sys.stdout)
    return 1 if warnings else 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)    # the shells that nbdev made, one a notebook, would take longer to say goodbye than the whole build
