"""Every notebook runs from top to bottom, in a process of its own, as many at a time as there are cores."""
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest

from conftest import CHECKOUT

NOTEBOOKS = sorted(path for path in (CHECKOUT/"nbs").rglob("*.ipynb") if not any(part.startswith((".", "_")) for part in path.relative_to(CHECKOUT).parts))
RUN = "import sys; from pathlib import Path; from nbdev.test import test_nb; sys.exit(not test_nb(Path(sys.argv[1]), skip_flags=['slow', 'gpu'])[0])"


def _run(path):
    return subprocess.run([sys.executable, "-c", RUN, str(path)], cwd=path.parent, capture_output=True, text=True, timeout=580)


@cache
def _results():
    pool = ThreadPoolExecutor(os.cpu_count())
    return {path: pool.submit(_run, path) for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(CHECKOUT/"nbs")))
def test_notebook(path):
    done = _results()[path].result()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
