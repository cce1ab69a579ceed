"""The exported package is what the notebooks say, the notebooks are clean, and the wheel holds what a run needs."""
import filecmp
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from conftest import CHECKOUT, copy_of_checkout

NOT_EXPORTED = {"workflow", "experiments", "runs", "__pycache__"}


def _modules(package):
    return {path.relative_to(package) for path in package.rglob("*.py") if not NOT_EXPORTED & set(path.relative_to(package).parts)}


def test_a_fresh_export_gives_the_same_package(tmp_path):
    fresh = copy_of_checkout(tmp_path/"checkout")
    for path in _modules(fresh/"medaug"):
        (fresh/"medaug"/path).unlink()
    subprocess.run([Path(sys.executable).with_name("nbdev_export")], cwd=fresh, check=True, capture_output=True)
    assert _modules(fresh/"medaug") == _modules(CHECKOUT/"medaug")
    different = [path for path in _modules(fresh/"medaug") if not filecmp.cmp(fresh/"medaug"/path, CHECKOUT/"medaug"/path, shallow=False)]
    assert not different


def test_the_notebooks_are_clean(tmp_path):
    fresh = copy_of_checkout(tmp_path/"checkout")
    subprocess.run([Path(sys.executable).with_name("nbdev_clean")], cwd=fresh, check=True, capture_output=True)
    notebooks = sorted((CHECKOUT/"nbs").rglob("*.ipynb"))
    assert notebooks
    unclean = [str(path.relative_to(CHECKOUT)) for path in notebooks if path.read_bytes() != (fresh/path.relative_to(CHECKOUT)).read_bytes()]
    assert not unclean


def test_every_notebook_opens_with_what_it_is_for():
    for path in (CHECKOUT/"nbs").rglob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        opening = "".join(cells[0]["source"])
        assert cells[0]["cell_type"] == "markdown" and opening.startswith("# ") and "\n> " in opening, path


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
    where = subprocess.run([installed, "-c", "import medaug; print(medaug.__file__)"], cwd=tmp_path, env=clean, check=True, capture_output=True, text=True)
    assert Path(where.stdout.strip()).is_relative_to(installed.parent.parent)


def test_the_readme_is_the_index_notebook():
    """Where it differs: jupyter nbconvert --to markdown --stdout nbs/index.ipynb > README.md"""
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "markdown", "--stdout", CHECKOUT/"nbs"/"index.ipynb"]
    expected = subprocess.run(command, check=True, capture_output=True, text=True).stdout.replace("](images/", "](nbs/images/")
    assert (CHECKOUT/"README.md").read_text() == expected
