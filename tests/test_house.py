"""The package is what the notebooks export, its code keeps the house's rules, the wheel holds what a run needs."""
import ast
import filecmp
import json
import os
import re
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import CHECKOUT, copy_of_checkout

from medaug.experiment.folder import ExperimentFolder
from medaug.experiment.plan import Experiment
from medaug.experiment.runs import plan_runs

NOT_EXPORTED = {"workflow", "experiments", "runs", "__pycache__"}


def _modules(package):
    paths = (path.relative_to(package) for path in package.rglob("*.py"))
    return {path for path in paths if not NOT_EXPORTED & set(path.parts)}


def test_a_fresh_export_gives_the_same_package(tmp_path):
    fresh = copy_of_checkout(tmp_path/"checkout")
    for path in _modules(fresh/"medaug"):
        (fresh/"medaug"/path).unlink()
    subprocess.run([Path(sys.executable).with_name("nbdev_export")], cwd=fresh, check=True, capture_output=True)
    assert _modules(fresh/"medaug") == _modules(CHECKOUT/"medaug")
    for path in _modules(fresh/"medaug"):
        assert filecmp.cmp(fresh/"medaug"/path, CHECKOUT/"medaug"/path, shallow=False), path


def test_the_notebooks_are_clean(tmp_path):
    fresh = copy_of_checkout(tmp_path/"checkout")
    subprocess.run([Path(sys.executable).with_name("nbdev_clean")], cwd=fresh, check=True, capture_output=True)
    notebooks = sorted((CHECKOUT/"nbs").rglob("*.ipynb"))
    assert notebooks
    unclean = [path for path in notebooks if path.read_bytes() != (fresh/path.relative_to(CHECKOUT)).read_bytes()]
    assert not unclean


MODULES = sorted(path for path in _modules(CHECKOUT/"medaug") if path.name != "_modidx.py")
CODE = {str(path): (CHECKOUT/"medaug"/path).read_text() for path in MODULES}
MOST_LINES = 450      # of a module; a longer one is two


def _ruff(*arguments):
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--line-length", "120",
               "--output-format", "concise", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [
    # nbdev leaves one blank line between the imports and the next cell
    ("--config", "lint.isort.lines-after-imports=1", "--select", "F,I,E501", "--exclude", "_modidx.py", "medaug"),
    # a notebook tests with star imports, and shows a function again
    ("--select", "F,E501", "--ignore", "F403,F405,F811", "--per-file-ignores", "07_explore.ipynb:F401", "nbs"),
    ("--select", "F,I,E501", "tests", "benchmarks", "setup.py"),
], ids=["modules", "notebooks", "tests"])
def test_no_unused_names_no_disordered_imports_and_no_long_lines(arguments):
    result = _ruff(*arguments)
    assert result.returncode in (0, 1), result.stderr
    found = re.findall(r"^(\S+?):(\d+):\d+: (.*)$", result.stdout, re.MULTILINE)
    wrong = [(path, line, what) for path, line, what in found if not _is_all_of_nbdev(path, int(line))]
    assert not wrong and (found or result.returncode == 0), wrong


def _is_all_of_nbdev(path, line):
    """Whether a line belongs to the `__all__` of a module, which nbdev writes up to 130 columns wide."""
    before = (CHECKOUT/path).read_text().splitlines()[max(line - 4, 0):line]
    return path.startswith("medaug/") and any(text.startswith("# %% auto") for text in before)


def test_modules_are_short_and_their_lines_are_narrow():
    assert not {name: length for name, text in CODE.items() if (length := len(text.splitlines())) > MOST_LINES}
    lines = [line for text in CODE.values() for line in text.splitlines()]
    assert statistics.median(len(line) for line in lines if line.strip()) < 80


def _public_functions(tree):
    """The functions of a module and the methods of its classes whose names have no underscore, and `__init__`."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public_functions(node)
        elif isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
            yield node


def _unannotated(function):
    """The arguments of a function that have no type, without `self` and `cls`."""
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [one.arg for one in every if one and one.annotation is None and one.arg not in ("self", "cls")]


def test_every_public_argument_has_a_type():
    functions = [(name, function) for name, text in CODE.items() for function in _public_functions(ast.parse(text))]
    assert len(functions) > 300
    bare = [f"{name} {function.name}: {', '.join(_unannotated(function))}" for name, function in functions
            if _unannotated(function)]
    assert not bare, "\n".join(bare)


# patterns that build a method's name or take one apart, and the one module that may
_METHOD_NAMES = (r"""["'](\w[\w -]* \+ )?w\\*\.(o\\*\.)?["']""", r"""["'] \+ w""", r"split\([\"'] ?\+ ?[\"']\)")
# names of files and folders inside an experiment's folder
_NAMES = r"scores\.csv|fid\.csv|manifest\.json|notebooks|done|state|plan"
_EXPERIMENT_PATHS = rf"""f?["'](?:[^"'\n]*/)?({_NAMES})(?:/[^"'\n ]*)?["']"""
_JOINED_PATHS = rf"""/\s*{_EXPERIMENT_PATHS}|{_EXPERIMENT_PATHS}\s*/|["'}}]/({_NAMES})["'/]"""


def _without_docstrings(text):
    """The statements of a module, without comments and docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant):
                body[0] = ast.Pass()
    return ast.unparse(tree)


def _found(patterns, allowed):
    code = {name: _without_docstrings(text) for name, text in CODE.items()}
    return [f"{name}: {line.strip()}" for name, text in code.items() if name != allowed
            for line in text.splitlines() if any(re.search(pattern, line) for pattern in patterns)]


def test_names_of_methods_are_built_and_taken_apart_in_one_module():
    assert "methods.py" in CODE
    found = _found(_METHOD_NAMES, "methods.py")
    assert not found, "\n".join(found)


def test_paths_inside_an_experiments_folder_are_spelled_in_one_module():
    assert "experiment/folder.py" in CODE
    found = _found([_JOINED_PATHS], "experiment/folder.py")
    assert not found, "\n".join(found)


def _code_of(notebook):
    return "\n".join("".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]
                     if cell["cell_type"] == "code")


def test_the_notebooks_of_runs_spell_only_paths_in_their_own_folders():
    """A run writes into `out` and reads from `gans` and `synthetic`, which are its parameters."""
    notebooks = sorted((CHECKOUT/"nbs"/"runs").glob("*.ipynb"))
    assert len(notebooks) == 5
    found = [f"{path.name}: {line}" for path in notebooks for line in _code_of(path).splitlines()
             if re.search(_JOINED_PATHS, line) and not re.search(r"Path\((out|gans|synthetic)\)", line)]
    assert not found, "\n".join(found)


def test_the_layout_of_runs_and_the_snakefile_have_the_paths_of_the_experiments_folder():
    folder = ExperimentFolder("")
    spelled = set(re.findall(r"[\"'](plan/[^\"'{]*)", (CHECKOUT/"medaug"/"workflow"/"Snakefile").read_text()))
    assert spelled == {str(folder.todo_file), f"{folder.ended('')}/"}
    runs = plan_runs(Experiment(dataset="d-heart", phantom={"patients": 20}))
    assert {str(path) for path in (folder.scores, folder.manifest_file, folder.report_page)} < set(runs[-1].outputs)
    gan, unet = (next(run for run in runs if run.stage == stage) for stage in ("train_gan", "train_unet"))
    assert str(folder.curves(gan)) in gan.outputs and folder.part(unet).name == folder.scores.name


ROOMS = {"data": 1, "stats": 1, "gan": 2, "seg": 2, "evaluation": 3, "experiment": 4, "engine": 5, "report": 5,
         "explore": 6, "cli.py": 6}


def _imports(name, lazy=True):
    """(room of the module, room that it imports from) for each import inside the package; ground modules have ''."""
    tree, room = ast.parse(CODE[name]), name.split("/")[0]
    for node in ast.walk(tree) if lazy else tree.body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            up = Path("medaug", name).parents[node.level - 1].parts if node.level else ()
            names = [".".join([*up, *([node.module] if node.module else []), alias.name]) for alias in node.names]
        for one in names:
            package, *parts = one.split(".")
            if package == "medaug" and parts:
                other = parts[0] if parts[0] in ROOMS else f"{parts[0]}.py"
                yield room if room in ROOMS else "", other if other in ROOMS else ""


def test_no_module_imports_from_a_room_after_its_own():
    wrong = [f"{name} imports from {other}" for name in CODE for room, other in _imports(name, lazy=name != "cli.py")
             if other != room and ROOMS.get(other, 0) >= max(ROOMS.get(room, 0), 1)]
    assert not wrong, "\n".join(wrong)


def test_every_notebook_opens_with_what_it_is_for():
    for path in (CHECKOUT/"nbs").rglob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        opening = "".join(cells[0]["source"])
        assert cells[0]["cell_type"] == "markdown" and opening.startswith("# ") and "\n> " in opening, path


def _exports(cell):
    """Whether a cell exports more than imports and names for import."""
    source = "".join(cell["source"])
    if cell["cell_type"] != "code" or not re.search(r"^#\|\s*exports?\b", source, re.M):
        return False
    return any(not isinstance(node, (ast.Import, ast.ImportFrom)) and "TYPE_CHECKING" not in ast.unparse(node)[:20]
               and not ast.unparse(node).startswith("_all_") for node in ast.parse(source).body)


def _chapters():
    """(name, cells) of each notebook that exports code."""
    for path in sorted((CHECKOUT/"nbs").rglob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        if any(map(_exports, cells)):
            yield path.relative_to(CHECKOUT/"nbs").as_posix(), cells


def test_every_chapter_opens_with_its_function_at_work():
    """A result stands before the first exported code. (Outputs are stored: execute a chapter that you changed.)"""
    silent = []
    for name, cells in _chapters():
        first = next(k for k, cell in enumerate(cells) if _exports(cell))
        silent += [] if any(cell.get("outputs") for cell in cells[:first]) else [name]
    assert not silent, silent


def test_between_three_exported_cells_something_stands():
    crowded = []
    for name, cells in _chapters():
        kinds = "".join("x" if _exports(cell) else "-" for cell in cells)
        crowded += [name] if "xxx" in kinds else []
    assert not crowded, crowded


def test_the_wheel_holds_the_modules_and_what_a_run_needs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in _modules(CHECKOUT/"medaug"):
        assert f"medaug/{path}" in names
    for path in (CHECKOUT/"nbs"/"runs").glob("*.ipynb"):
        assert f"medaug/runs/{path.name}" in names
    for path in (CHECKOUT/"medaug"/"experiments").glob("*.yaml"):
        assert f"medaug/experiments/{path.name}" in names
    for path in (CHECKOUT/"medaug"/"explore").glob("*.js"):
        assert f"medaug/explore/{path.name}" in names
    for path in (CHECKOUT/"medaug"/"workflow").rglob("*"):
        assert path.is_dir() or f"medaug/{path.relative_to(CHECKOUT/'medaug')}" in names


def test_the_wheel_works_outside_the_checkout(installed, tmp_path):
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [installed, "-c", "import medaug; print(medaug.__file__)"]
    where = subprocess.run(command, cwd=tmp_path, env=clean, check=True, capture_output=True, text=True)
    assert Path(where.stdout.strip()).is_relative_to(installed.parent.parent)


def test_the_readme_is_the_index_notebook():
    """Where it differs: jupyter nbconvert --to markdown --stdout nbs/index.ipynb | sed 's,](,](nbs/,' > README.md"""
    index = CHECKOUT/"nbs"/"index.ipynb"
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "markdown", "--stdout", index]
    written = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert (CHECKOUT/"README.md").read_text() == re.sub(r"\]\((?!https?:)", "](nbs/", written)
