"""The six paper files plan the same runs as the version before splits, folds and steps became keys."""
import json

import pytest
from conftest import CHECKOUT

from medaug.experiment.plan import find_experiment, read_experiment
from medaug.experiment.runs import plan_runs
from medaug.files import value_hash

# tests/data/paper-plans.json: for each file the name of every run, in order, and a hash of what that version planned
STORED = json.loads((CHECKOUT/"tests"/"data"/"paper-plans.json").read_text())
PARAMETERS = {
    "prepare": ("dataset", "store", "resolution", "phantom", "processes"),
    "train_gan": ("dataset", "store", "patients", "seed", "gan", "resolution", "kimg", "batch", "ada", "options",
                  "out"),
    "generate": ("dataset", "store", "patients", "seed", "pipeline", "gans", "generated", "psi", "out"),
    "train_unet": ("dataset", "store", "patients", "seed", "pipeline", "augmentation", "generated", "recipe",
                   "synthetic", "epochs", "batch", "options", "test", "out"),
    "compare": ("experiment", "alpha", "blocks", "test", "methods"),
}


def planned(run):
    """A hash of what the earlier version planned of a run."""
    parameters = {key: run.parameters[key] for key in PARAMETERS[run.stage]}
    outputs = run.outputs if run.stage != "compare" else ()     # the comparison now says more of what it leaves
    return value_hash([run.stage, run.title, run.out, outputs, run.needs, parameters, run.resources])[:16]


@pytest.mark.parametrize("name", STORED)
def test_the_plan_is_the_stored_one(name):
    runs = plan_runs(read_experiment(find_experiment(name)))
    assert [run.name for run in runs] == list(STORED[name])
    assert {run.name: planned(run) for run in runs} == STORED[name]


def test_it_is_the_whole_matrix_of_the_paper():
    assert {name: len(runs) for name, runs in STORED.items()} == {
        "brats20": 157, "kits19": 126, "ibsr18": 33, "u-pro": 157, "d-heart": 33, "d-spleen": 64}
