"""Every notebook runs from top to bottom in its own process. test_experiment executes those of nbs/runs."""
import os
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT, PROCESSES

NOTEBOOKS = sorted(
    path
    for path in (CHECKOUT / "nbs").rglob("*.ipynb")
    if not any(part.startswith((".", "_")) or part == "runs" for part in path.relative_to(CHECKOUT).parts)
)


def _run(path, log):
    """Run a notebook in this process; what it prints goes to the file `log`."""
    with open(log, "w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    from nbdev.test import test_nb

    os.chdir(path.parent)
    sys.path.insert(0, "")
    sys.exit(not test_nb(path, skip_flags=["slow", "gpu"])[0])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(CHECKOUT/"nbs")))
def test_notebook(path, tmp_path):
    log = tmp_path/"output.log"
    process = PROCESSES.Process(target=_run, args=(path, log))
    process.start()
    process.join(580)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode == 0, Path(log).read_text()[-8000:]
