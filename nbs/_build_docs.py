"""Build the documentation from the notebooks, with Sphinx or with Quarto, from one `_quarto.yml`.

python nbs/_build_docs.py [OUT] [--execute all|none|PATTERN …] [--jobs N] [--cache DIR] [--quarto]

Then open OUT/index.html (_docs/index.html) in a browser.

1. Notebooks are executed, so that every figure belongs to the code beside it. Unchanged ones come from a cache.
2. Imports and tests are folded, and the exported code is shown.
3. nbdev processes the notebooks (`proc_nbs`), and Sphinx or Quarto builds the pages.

Only OUT and the cache are written. The script is not part of the package; the underscore hides it from nbdev.
"""
import argparse
import ast
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
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from warnings import catch_warnings, filterwarnings

import nbformat
import yaml
from nbdev.showdoc import BasicMarkdownRenderer

CHECKOUT = Path(__file__).resolve().parent.parent
COPIED = ("nbs", "medaug", "benchmarks", "tests/data", "settings.ini", "setup.py", "_quarto.yml", "README.md",
          "LICENSE")
SITE = "https://medaug.github.io/medaug/"


# --- the parameter table ----------------------------------------------------------------------------------------------

def _clauses(text):
    """The clauses of a docstring, cut at full stops and semicolons, each on one line."""
    return [" ".join(clause.split()) for clause in re.split(r"(?<=[.;])\s+|\n\n", text)]


def _said_of(name, text):
    """The first clause of a docstring that names the parameter in backticks."""
    return next((clause for clause in _clauses(text) if re.search(rf"`{re.escape(name)}(`|[ =(,])", clause)), "")


def _type_text(annotation):
    """An annotation as text, classes without their modules."""
    text = inspect.formatannotation(annotation).strip("'")
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)


def written_types(sym: Callable) -> dict[str, str]:
    """The types of a function's parameters, and of what it returns ('return'), as its source writes them.

    Evaluated, a type such as ArrayLike is a union of a dozen. A class has those of its `__init__`, or of its fields.
    """
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(sym)))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    if isinstance(body, ast.ClassDef):
        fields = {node.target.id: node.annotation for node in body.body if isinstance(node, ast.AnnAssign)}
        made = [node for node in body.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        if not made:
            return {name: ast.unparse(node).strip("'") for name, node in fields.items()}
        body = made[0]
    if not isinstance(body, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return {}
    arguments = [*body.args.posonlyargs, *body.args.args, *body.args.kwonlyargs, body.args.vararg, body.args.kwarg]
    types = {one.arg: one.annotation for one in arguments if one} | {"return": body.returns}
    return {name: ast.unparse(node).strip("'") for name, node in types.items() if node}


def signature_text(sym: Callable) -> str:
    """How a callable is called, on one line, or with one parameter per line if that is long."""
    try:
        signature = inspect.signature(sym)
    except (ValueError, TypeError):
        return sym.__name__
    returned = signature.return_annotation
    written = written_types(sym).get("return") or _type_text(returned)
    end = ")" if inspect.isclass(sym) or returned in (signature.empty, None) else f") -> {written}"
    bare = [p.replace(annotation=p.empty) for name, p in signature.parameters.items() if name != "self"]
    shown = [f"{p.name}=…" if len(repr(p.default)) > 80 or "factory>" in str(p) else str(p) for p in bare]
    head = f"{'class ' if inspect.isclass(sym) else ''}{sym.__name__}"
    one = f"{head}({', '.join(shown)}{end}"
    return one if len(one) <= 100 else f"{head}(\n    " + ",\n    ".join(shown) + end


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


def parameter_table(sym: Callable) -> str:
    """The Markdown table of a callable's parameters: name, type, default, and what the docstring says of each."""
    hidden = ("self", "args", "kwargs", "data")
    try:
        parameters = [p for p in inspect.signature(sym).parameters.values() if p.name not in hidden]
    except (ValueError, TypeError):
        return ""
    doc, rows, types = inspect.getdoc(sym) or "", [], written_types(sym)
    for p in parameters:
        kind = types.get(p.name) or ("" if p.annotation is p.empty else _type_text(p.annotation))
        kind = f"`{_in_a_cell(kind)}`" if kind else ""
        default = "computed" if "factory" in repr(p.default) else _shown(p.default)
        rows.append([f"`{p.name}`", kind, default, _in_a_cell(_escaped(_said_of(p.name, doc)))])
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
        if not name.startswith("_") and inspect.isfunction(function) and function.__doc__:     # of its own
            bare = [str(p.replace(annotation=p.empty)) for p in inspect.signature(function).parameters.values()]
            call = "" if isinstance(value, property) else f"({', '.join(one for one in bare if one != 'self')})"
            found.append(f"- `.{name}{call}`: {_escaped(' '.join(inspect.getdoc(function).split()))}")
    return "\n".join(found)


class Renderer(BasicMarkdownRenderer):
    """nbdev's `show_doc`, with the docstring as it is written, a parameter table, and a class's methods."""

    def __init__(self, sym: Callable, name: str | None = None, title_level: int = 3):
        # not the parent's `__init__`: it evaluates annotations, and those of modules that load slowly are only text
        self.sym = inspect.unwrap(sym)
        self.nm, self.title_level = name or self.sym.__qualname__, title_level
        home = self.sym.__module__
        self.fn = self.sym.__qualname__ if home in ("__main__", "builtins") else f"{home}.{self.sym.__qualname__}"
        self.dm, self.docs = "", ""

    def _repr_markdown_(self) -> str:
        head = super()._repr_markdown_()
        head = head[:head.index("```python")]
        parts = [f"```python\n{signature_text(self.sym)}\n```", _escaped(inspect.getdoc(self.sym) or ""),
                 parameter_table(self.sym), _members(self.sym)]
        return head + "\n\n".join(part for part in parts if part)


# --- execution --------------------------------------------------------------------------------------------------------

def _content(*paths):
    """A hash of what files hold."""
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()


def _cells_hash(path):
    """A hash of a notebook's cells without their outputs."""
    cells = [(cell.cell_type, cell.source) for cell in nbformat.read(path, as_version=4).cells]
    return hashlib.sha256(repr(cells).encode()).hexdigest()


def _stands_still(cell):
    return cell.cell_type == "code" and re.search(r"^#\|\s*eval:\s*false", cell.source, re.M)


_TEMPORARY = rf"{re.escape(tempfile.gettempdir())}/tmp[\w{{}}]+"
_BAR = r"\r[^\r\n]*(?:\d+%\||\[\d\d:\d\d)[^\r\n]*\n?"


def _tidy_text(text):
    """Text without the names of temporary folders."""
    return re.sub(_TEMPORARY, "folder", re.sub(rf"{_TEMPORARY}/", "", text))


def tidy_outputs(outputs: list, source: str = "") -> list:
    """Outputs for reading: printed text in one piece, without progress bars, library warnings and temporary folders.

    The bars of a cell whose `source` calls `progress` itself stay, in their last state.
    """
    tidy = []
    for output in outputs:
        if output.output_type == "stream":
            lines = output.text.splitlines(True) if output.name == "stderr" else [output.text]
            text = "".join(line for line in lines if output.name == "stdout" or line.startswith("medaug:"))
            if text and tidy and tidy[-1].output_type == "stream":
                tidy[-1].text += text
            elif text:
                tidy.append(nbformat.v4.new_output("stream", name="stdout", text=text))
        else:
            if isinstance(plain := output.get("data", {}).get("text/plain"), str):
                output.data["text/plain"] = _tidy_text(plain)
            tidy.append(output)
    for output in tidy:
        if output.output_type == "stream":
            bars = rf"{_BAR}(?=\r)" if re.search(r"\bprogress\(", source) else _BAR
            output.text = _tidy_text(re.sub(bars, "", output.text)).lstrip("\n\r")
    return [output for output in tidy if output.output_type != "stream" or output.text.strip()]


def execute(path: Path, cache: Path, package: str) -> None:
    """Execute one notebook in place, or copy it from `cache`, if this notebook and `package` (a hash) were executed."""
    kept = cache/f"{_cells_hash(path)[:16]}-{package[:16]}.ipynb"
    if kept.is_file():
        shutil.copyfile(kept, path)
        return
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    still = [cell for cell in notebook.cells if _stands_still(cell)]
    for cell in still:
        cell.cell_type = "raw"
    with tempfile.TemporaryDirectory() as sockets:      # not ports: two kernels that start at once may choose the same
        manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        resources = {"metadata": {"path": str(path.parent)}}
        try:
            NotebookClient(notebook, km=manager, timeout=1200, resources=resources).execute()
        finally:        # nbclient leaves a kernel alive whose manager it was given
            run_sync(manager.shutdown_kernel)(now=True)
    for cell in still:
        cell.cell_type = "code"
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, path)
    cache.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, kept.with_suffix(".part"))
    kept.with_suffix(".part").replace(kept)


def _chosen(work, patterns):
    """The notebooks below `work`/nbs to execute: those of `patterns`, without the runs, which need an experiment."""
    if patterns == ["none"]:
        return []
    paths = sorted((work/"nbs").rglob("*.ipynb"))
    names = {path.relative_to(work/"nbs").as_posix(): path for path in paths}
    return [path for name, path in names.items() if not name.startswith("runs/")
            and (patterns == ["all"] or any(fnmatch.fnmatch(name, pattern) for pattern in patterns))]


def execute_notebooks(work: Path, patterns: list[str], cache: Path, jobs: int) -> None:
    """Execute the chosen notebooks of a working copy, `jobs` at a time."""
    sources = sorted(path for path in (work/"medaug").rglob("*") if path.suffix in (".py", ".yaml"))
    package = _content(*sources)
    os.environ.pop("MPLBACKEND", None)
    paths = _chosen(work, patterns)
    with ProcessPoolExecutor(max(jobs, 1)) as pool:
        for path, _ in zip(paths, pool.map(partial(execute, cache=cache, package=package), paths)):
            print(f"executed: {path.relative_to(work/'nbs')}", flush=True)


# --- imports and tests folded, exported code shown --------------------------------------------------------------------

def _is_check(node):
    """Whether a piece of code asserts something."""
    called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    return isinstance(node, ast.Assert) or called.startswith("test_")


def _is_import(node):
    """Whether a statement is an import, also one for type checkers only."""
    checked = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    return checked or isinstance(node, (ast.Import, ast.ImportFrom))


def fold_summary(source: str) -> str | None:
    """'Imports', 'Test' or 'Functions' for the code of a cell that is folded on its page, else None.

    A test is a cell in which at least half of the lines belong to statements that assert something. Functions are
    folded that an example needs and that its reader need not read: a cell of nothing else, of ten lines or more.
    """
    body = ast.parse(re.sub(r"^[!%].*$", "", source, flags=re.M)).body
    if body and all(map(_is_import, body)):
        return "Imports"
    lines = [(node.end_lineno - node.lineno + 1, any(map(_is_check, ast.walk(node)))) for node in body]
    checks = sum(number for number, checked in lines if checked)
    if body and all(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in body) and source.count("\n") >= 9:
        return "Functions"
    return "Test" if checks and 2*checks >= sum(number for number, _ in lines) else None


def without_imports(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """A cell that begins with four lines of imports or more as two cells, so that the imports can be folded."""
    if cell.cell_type != "code" or re.search(r"^(#\||[!%])", cell.source, re.M):
        return [cell]
    body = ast.parse(cell.source).body
    first = next((k for k, node in enumerate(body) if not _is_import(node)), len(body))
    if not 0 < first < len(body) or body[first - 1].end_lineno < 4:
        return [cell]
    lines, end = cell.source.split("\n"), body[first - 1].end_lineno
    imports = nbformat.v4.new_code_cell("\n".join(lines[:end]))
    cell.source = "\n".join(lines[end:]).strip("\n")
    return [imports, cell]


def fold(work: Path) -> None:
    """Fold the imports and tests in the notebooks of a working copy, and show exported code after its documentation."""
    for path in sorted((work/"nbs").rglob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [part for cell in notebook.cells for part in without_imports(cell)]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = tidy_outputs(cell.outputs, cell.source)
            if cell.cell_type != "code" or re.search(r"^#\|\s*(default_exp|eval:)", cell.source, re.M):
                continue
            summary, exported = fold_summary(cell.source), re.search(r"^#\|\s*export\s*$", cell.source, re.M)
            if exported and summary != "Imports":       # functions of the package are the page's subject
                cell.source = re.sub(r"^#\|\s*export\s*$", "#| exports", cell.source, flags=re.M)
            elif summary and not exported and not re.search(r"^#\|\s*(hide|echo:)", cell.source, re.M):
                cell.source = f'#| code-fold: true\n#| code-summary: "{summary}"\n{cell.source}'
            if not exported and summary != "Imports":
                # nbdev would execute a cell that imports something, in a shell without the cells before it
                cell.source = f"#| eval: false\n{cell.source}"
        nbformat.write(notebook, path)


# --- what nbdev's processing leaves, completed ------------------------------------------------------------------------

def working_copy(folder: Path) -> Path:
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


def process(work: Path) -> Path:
    """nbdev's processing of a working copy; returns the folder of processed notebooks.

    In this process (`n_workers=0`): nbdev's workers import everything anew for each notebook, which takes four times
    as long.
    """
    from nbdev.serve import proc_nbs

    with contextlib.chdir(work), catch_warnings():
        filterwarnings("ignore", "Found cells containing imports")     # hidden ones, which run as one
        return Path(proc_nbs(n_workers=0, force=True))


def front_matter(notebook: nbformat.NotebookNode) -> dict:
    """The values of a processed notebook's front matter."""
    first = notebook.cells[0]
    return yaml.safe_load(first.source.strip().strip("-")) if first.cell_type == "raw" else {}


def module_of(notebook: nbformat.NotebookNode) -> str | None:
    """The module that a notebook exports, or None."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    found = [re.search(r"^#\|\s*default_exp\s+(\S+)", source, re.M) for source in code]
    return next((f"medaug.{match[1]}" for match in found if match), None)


def _one_line(value):
    shown = re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))
    return f"`{_in_a_cell(shown if len(shown) <= 120 else shown[:119] + '…')}`"


def constants_cell(name: str) -> nbformat.NotebookNode | None:
    """A Markdown cell with the public names of the module `name` that it does not define itself, or None."""
    from medaug._modidx import d

    module, rows = importlib.import_module(name), []
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        home = getattr(value, "__module__", name)
        if not (callable(value) and home == name and f"{name}.{public}" in d["syms"][name]):
            elsewhere = callable(value) and home.startswith("medaug.") and home != name
            shown = f"of [`{home}.{public}`]({doc_link(home, public)})" if elsewhere else _one_line(value)
            rows.append(f"| `{public}` | {shown} |")
    text = "\n".join(["## Other public names", "", "| name | value |", "|---|---|", *rows])
    return nbformat.v4.new_markdown_cell(text) if rows else None


def doc_link(module: str, name: str) -> str:
    """The address of a public name of a module on the published site."""
    from medaug._modidx import d

    return SITE + d["syms"][module][f"{module}.{name}"][0]


def complete(work: Path, processed: Path) -> None:
    """Add to each processed page what nbdev leaves out: the names that are not functions or classes."""
    for path in sorted(processed.rglob("*.ipynb")):
        name = module_of(nbformat.read(work/"nbs"/path.relative_to(processed), as_version=4))
        cell = constants_cell(name) if name else None
        if cell:
            notebook = nbformat.read(path, as_version=4)
            notebook.cells.append(cell)
            nbformat.write(notebook, path)


# --- pages for Sphinx -------------------------------------------------------------------------------------------------

def anchor(page: str, name: str) -> str:
    """The link target of a public name on a page. A class and a function whose names differ in capitals have two."""
    return f"{page}.{name}".replace("/", ".").lower() + ("-class" if name[:1].isupper() else "")


def page_of(path: Path, processed: Path) -> str:
    """The page (without suffix) of a processed notebook, as nbdev names it: data/14_splits.ipynb is data/splits."""
    matter = front_matter(nbformat.read(path, as_version=4))
    return (path.relative_to(processed).parent/Path(matter.get("output-file", path.stem)).stem).as_posix()


def _local(text, pages, here=""):
    """Links to the published site, or from the folder `here` to notebooks, as links between the pages of this build.

    `pages` maps notebooks to pages.
    """
    def notebook(match):
        page = pages.get(os.path.normpath(os.path.join(here, match["path"])))
        return f"[{match['text']}](/{page}.md)" if page else match[0]

    def symbol(match):
        page, parts = match["page"], match["text"].strip("`").removesuffix("()").split(".")
        name = next((part for part in parts if part[:1].isupper()), parts[-1])      # a method stands with its class
        if name.startswith("_"):
            return match["text"]
        target = "#" + anchor(page, name) if match["name"] else f"/{page}.md"
        return f"[{match['text']}]({target})" if page in pages.values() else match[0]

    text = re.sub(r"\{target=\"_blank\"[^}]*\}", "", text)
    text = re.sub(r"\[(?P<text>[^\]]+)\]\((?P<path>[^):#]+\.ipynb)\)", notebook, text)
    published = rf"\[(?P<text>[^\]]+)\]\({re.escape(SITE)}(?P<page>[^)#]*?)\.html(?:#(?P<name>[^)]+))?\)"
    return re.sub(published, symbol, text)


def _documented(text, page):
    """The output of `show_doc` with a target before its heading."""
    def with_target(match):
        return f"({anchor(page, match[3])})=\n{match[2]} {match[3]}\n\n{match[1].rstrip()}\n"

    return re.sub(r"^---\n\n((?:\[source\].*\n\n)?)(#+) (\S+)$", with_target, text, count=1, flags=re.M)


def _folded(source, state, summary):
    """A Markdown cell with code that a reader can open (`state` is 'true') or close ('show')."""
    text = f"<details{' open' if state == 'show' else ''}>\n<summary>{summary}</summary>\n\n"
    return nbformat.v4.new_markdown_cell(f"{text}```python\n{source}\n```\n\n</details>")


def _shown_cells(notebook, page, pages, here) -> Iterator[nbformat.NotebookNode]:
    """The cells of a processed notebook as its page shows them."""
    for cell in notebook.cells:
        directives = dict(re.findall(r"^#\|\s*([\w-]+):?\s*(.*?)\s*$", cell.source, re.M))
        if cell.cell_type == "code":
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip("\n")
        if cell.cell_type == "code" and cell.source.startswith("show_doc("):
            shown = [output.data.get("text/markdown", "") for output in cell.outputs if "data" in output]
            text = "".join("".join(part) for part in shown)
            yield nbformat.v4.new_markdown_cell(_local(_documented(text, page), pages, here))
        elif cell.cell_type == "markdown":
            cell.source = _local(cell.source, pages, here)
            yield cell
        elif cell.cell_type == "code" and (cell.source or cell.outputs):
            for output in cell.outputs:
                if "text/markdown" in output.get("data", {}):
                    output.data["text/markdown"] = _local("".join(output.data["text/markdown"]), pages, here)
                if "text/html" in output.get("data", {}):       # Markdown would end an embedded page at an empty line
                    embedded = "".join(output.data["text/html"])
                    one_line = partial(re.sub, "\n", "&#10;")
                    output.data["text/html"] = re.sub(r'srcdoc="[^"]*"', lambda m: one_line(m[0]), embedded)
            if directives.get("echo") == "false":
                cell.source = ""
            elif "code-fold" in directives:
                summary = directives.get("code-summary", "Code").strip('"').replace("Exported source", "Code")
                yield _folded(cell.source, directives["code-fold"], summary)
                cell.source = ""
            yield cell


def _described_figures(text):
    """Figures whose alternative text is the heading that they stand under."""
    heading, lines = "", []
    for line in text.split("\n"):
        heading = line.lstrip("#").strip() if re.match(r"#+ ", line) else heading
        lines.append(re.sub(r"^!\[(?:png|svg|jpeg)\]\(", lambda _: f"![{heading}](", line))
    return "\n".join(lines)


def write_page(path: Path, page: str, pages: dict[str, str], source: Path, here: str) -> None:
    """Write the Markdown page of one processed notebook, and its figures, below `source`."""
    from nbconvert import MarkdownExporter

    notebook = nbformat.read(path, as_version=4)
    matter = front_matter(notebook)
    heading = f"# {matter.get('title', page)}\n\n> {matter.get('description', '')}"
    title = [nbformat.v4.new_markdown_cell(heading)] if matter else []
    notebook.cells = title + list(_shown_cells(notebook, page, pages, here))
    notebook.metadata["language_info"] = {"name": "python"}
    files = {"unique_key": Path(page).name, "output_files_dir": f"{Path(page).name}_files"}
    text, resources = MarkdownExporter().from_notebook_node(notebook, files)
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
            caption = f":caption: {entry['section']}" if entry["section"] else ""
            yield "\n".join(["```{toctree}", caption, ":hidden:", "", *(f"/{page}" for page in pages), "```"])


def write_sphinx_source(processed: Path, source: Path) -> dict:
    """Write the pages and toctrees that Sphinx builds from; returns the website's part of `_quarto.yml`."""
    website = yaml.safe_load((processed/"_quarto.yml").read_text())["website"]
    notebooks = sorted(processed.rglob("*.ipynb"))
    page_names = {path.relative_to(processed).as_posix(): page_of(path, processed) for path in notebooks}
    for name, page in page_names.items():
        write_page(processed/name, page, page_names, source, os.path.dirname(name))
    for path in processed.rglob("*"):
        if path.suffix in (".png", ".svg", ".jpg", ".css"):
            (source/path.relative_to(processed)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, source/path.relative_to(processed))
    (source/"_static").mkdir(exist_ok=True)
    shutil.copyfile(CHECKOUT/"nbs"/"styles.css", source/"_static"/"styles.css")
    (source/"_static"/"page.js").write_text(_PAGE, encoding="utf-8")
    with open(source/"index.md", "a", encoding="utf-8") as file:
        file.write("\n\n" + "\n\n".join(_toctrees(website["sidebar"]["contents"], page_names)) + "\n")
    return website


# The sidebar is longer than the window: it scrolls to the page that is open. What scrolls can be reached by keyboard.
_PAGE = """document.addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.setAttribute("aria-level", "2");
  const boxes = "article pre, article .table-wrapper, article .math-wrapper, article div:has(> table)";
  const reach = () => {
    for (const box of document.querySelectorAll(boxes)) if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  };
  reach();
  window.addEventListener("load", reach);
  window.addEventListener("resize", reach);
  document.addEventListener("toggle", reach, true);

  const page = document.querySelector(".sidebar-tree .current-page");
  const scroll = document.querySelector(".sidebar-scroll");
  if (!page || !scroll) return;
  const from = (element) => element.getBoundingClientRect().top;
  const by = from(page) - from(scroll) - scroll.clientHeight / 2;
  scroll.scrollBy({ top: by, behavior: "instant" });
});
"""


def _math(self, node, display):
    """A formula as MathML, which browsers draw without a script."""
    from docutils import nodes
    from latex2mathml.converter import convert

    self.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app) -> dict:
    """Sphinx reads this as an extension: formulas as MathML."""
    inline, block = (partial(_math, display=display) for display in ("inline", "block"))
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def build_with_sphinx(source: Path, out: Path, website: dict) -> str:
    """Build the HTML; returns Sphinx's warnings as one text, empty if there are none."""
    import io

    from sphinx.application import Sphinx

    settings = {
        "extensions": ["myst_parser", "_build_docs"], "project": website["title"], "html_title": website["title"],
        "html_theme": "furo", "language": "en", "html_math_renderer": "mathml",
        "myst_enable_extensions": ["dollarmath", "attrs_inline"], "myst_heading_anchors": 4,
        "myst_dmath_double_inline": True, "highlight_language": "none", "html_copy_source": False,
        "html_show_sourcelink": False, "html_show_sphinx": False, "html_use_index": False,
        "html_static_path": [str(source/"_static")], "html_css_files": ["styles.css"], "html_js_files": ["page.js"],
        "suppress_warnings": ["myst.header", "misc.highlighting_failure"], "html_baseurl": website["site-url"]}
    warnings = io.StringIO()
    app = Sphinx(str(source), None, str(out), str(source/".doctrees"), "html", confoverrides=settings, status=None,
                 warning=warnings)
    app.build()
    return warnings.getvalue()


def build(out: Path, patterns: list[str], jobs: int, cache: Path, quarto: bool) -> str:
    """Build the docs into `out`; returns the warnings."""
    with tempfile.TemporaryDirectory() as folder:
        work = working_copy(Path(folder)/"checkout")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(work), str(work/"nbs"), os.environ.get("PYTHONPATH", "")])
        sys.path[:0] = [str(work), str(work/"nbs")]
        execute_notebooks(work, patterns, cache, jobs)
        fold(work)
        processed = process(work)
        complete(work, processed)
        if quarto:
            subprocess.run(["quarto", "render", processed, "--output-dir", out], check=True)
            return ""
        return build_with_sphinx(work/"source", out, write_sphinx_source(processed, work/"source"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the documentation from the notebooks.")
    parser.add_argument("out", nargs="?", type=Path, default=CHECKOUT/"_docs")
    parser.add_argument("--execute", nargs="+", default=["all"], metavar="PATTERN",
                        help="notebooks to execute first: all, none, or patterns such as tutorials/* (default: all)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="notebooks executed at a time (default: 2)")
    parser.add_argument("--cache", type=Path, default=CHECKOUT/"_proc"/"executed", metavar="DIR",
                        help="the folder of executed notebooks")
    parser.add_argument("--quarto", action="store_true", help="build with Quarto instead of Sphinx")
    arguments = parser.parse_args()
    out, cache = arguments.out.resolve(), arguments.cache.resolve()
    warnings = build(out, arguments.execute, arguments.jobs, cache, arguments.quarto)
    print(warnings or f"built: {arguments.out}/index.html", file=sys.stderr if warnings else sys.stdout)
    return 1 if warnings else 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)    # without closing nbdev's shells, one per notebook, which takes longer than the build
