"""Every notebook runs from top to bottom in its own process. test_experiment executes those of nbs/runs."""
import subprocess
import sys

import pytest
from conftest import CHECKOUT

NOTEBOOKS = sorted(
    path
    for path in (CHECKOUT / "nbs").rglob("*.ipynb")
    if not any(part.startswith((".", "_")) or part == "runs" for part in path.relative_to(CHECKOUT).parts)
)
RUN = """
import sys
from pathlib import Path
from nbdev.test import test_nb
sys.exit(not test_nb(Path(sys.argv[1]), skip_flags=["slow", "gpu"])[0])
"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(CHECKOUT/"nbs")))
def test_notebook(path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path)], cwd=path.parent, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
