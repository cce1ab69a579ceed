"""What all tests share: the checkout's path, one thread for each process, and the wheel."""
import multiprocessing
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)     # hundreds of processes would compile the package anew

CHECKOUT = Path(__file__).resolve().parent.parent
PROCESSES = multiprocessing.get_context("forkserver")
# what nearly every notebook imports is imported once; nothing of medaug, which a notebook may change
PROCESSES.set_forkserver_preload(["nbdev.test", "nbdev.showdoc", "torch", "pandas", "scipy.stats", "matplotlib.pyplot",
                                  "nibabel", "lightning_fabric", "SimpleITK", "skimage.morphology"])


def pytest_xdist_auto_num_workers(config):
    """One more worker than cores: tests with a browser, a server or a cluster wait much of their time."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else None


def copy_of_checkout(target):
    """The checkout without what git ignores, at `target`."""
    ignore = shutil.ignore_patterns(
        ".git",
        ".venv",
        "__pycache__",
        "*.egg-info",
        "build",
        "dist",
        "demo",
        "overnight",
        "_docs",
        "_proc",
        ".pytest_cache",
    )
    return Path(shutil.copytree(CHECKOUT, target, symlinks=True, ignore=ignore))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The path of the wheel built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = copy_of_checkout(folder/"checkout")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source], check=True
    )
    return next(folder.glob("medaug-*.whl"))


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """The Python of an environment with medaug from the wheel and its dependencies from this environment."""
    environment = tmp_path_factory.mktemp("installed")/"environment"
    venv.create(environment, with_pip=False)
    site = next((environment/"lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    import numpy
    (site/"dependencies.pth").write_text(str(Path(numpy.__file__).parent.parent) + "\n")
    return environment/"bin"/"python"
