"""An experiment with another team's synthetic patients: plan, import, training and leak guard, in a run's notebooks."""
import json
import warnings

import pandas as pd
import pytest

from medaug.data.datasets import find_dataset, find_patients
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import LeakError, split_patients
from medaug.engine.execute import template
from medaug.engine.workflow import run_experiment
from medaug.experiment.plan import read_experiment
from medaug.experiment.runs import plan_runs

EXPERIMENT = """
dataset: d-heart
root: real
patients: [5]
resolution: 16
generated: [2]
pipelines: [bl]
augmentation: [without]
unet: {epochs: 2, batch: 8, width: 4, depth: 2, learning_rate: 0.01, recipe: balanced}
synthetic:
  diffusion: {root: theirs}
"""


def execute(stage, **parameters):
    """The code of a stage's notebook with these parameters, in this process; returns
    its names and drops its output."""
    cells = [
        ("".join(cell["source"]), cell["metadata"].get("tags", []))
        for cell in json.loads(template(stage).read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    names = {}
    for source, tags in cells:
        exec(source, names)
        if "parameters" in tags:
            names.update(parameters)
    return names


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Real phantom hearts, prepared, another team's, and an experiment on both; the current folder is that of the
    executed notebooks."""
    monkeypatch.chdir(tmp_path)
    for name, patients, seed in (("real", 5, 0), ("theirs", 2, 9)):
        write_phantom(find_dataset("d-heart"), name, patients=patients, size=24, depth=6, seed=seed, progress_bar=False)
    (tmp_path/"mine.yaml").write_text(EXPERIMENT)
    prepare_dataset(
        find_dataset("d-heart"), "real", "out/store/d-heart", resolution=16, processes=1, progress_bar=False
    )
    (tmp_path/"out"/"notebooks").mkdir()
    return tmp_path


def _planned(folder):
    return {run.name: run for run in plan_runs(read_experiment(folder/"mine.yaml"))}


def test_patients_of_unknown_origin_are_compared_and_said_to_be_so(folder, monkeypatch):
    runs = _planned(folder)
    monkeypatch.chdir(folder/"out"/"notebooks")
    with pytest.warns(UserWarning, match="nobody says which patients"):
        execute("generate", **runs["generate-D-HEART-5-seed0-diffusion"].parameters)
    for output in runs["generate-D-HEART-5-seed0-diffusion"].outputs:
        assert (folder/"out"/output).is_file(), output
    assert (
        "nobody says which patients"
        in (folder / "out/generated/D-HEART-5-seed0/diffusion/memorisation.txt").read_text()
    )
    method = runs["train_unet-D-HEART-5-seed0-diffusion-balanced-wo-2"]
    with pytest.warns(UserWarning, match="nobody says which patients"):
        execute("train_unet", **method.parameters)
    scores = pd.read_csv(folder/"out"/method.out/"scores.csv")
    assert set(scores.method) == {"DIFFUSION (balanced) + w.o. + 2"} and scores.dsc.between(0, 1).all()
    written = {path.name for path in (folder/"out"/method.out/"predictions").iterdir()}
    assert written == {f"{id}.nii.gz" for id in scores.patient}


def test_a_generator_that_saw_a_test_patient_stops_the_run(folder, monkeypatch):
    split = split_patients([files.id for files in find_patients(find_dataset("d-heart"), folder/"real")], 5, seed=0)
    for seen, leaks in ((split.train, False), ((*split.train, *split.test), True)):
        (folder / "mine.yaml").write_text(
            EXPERIMENT.replace("{root: theirs}", f"{{root: theirs, seen: [{', '.join(seen)}]}}")
        )
        run = _planned(folder)["generate-D-HEART-5-seed0-diffusion"]
        monkeypatch.chdir(folder/"out"/"notebooks")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            if not leaks:
                assert execute("generate", **run.parameters)["origin"].endswith("all of them training patients.")
            else:
                with pytest.raises(LeakError, match=split.test[0]):
                    execute("generate", **run.parameters)
        monkeypatch.chdir(folder)


def test_a_dry_run_names_them(folder):
    told = []
    assert run_experiment(folder/"mine.yaml", folder/"planned", dry_run=True, show=told.append, verbose=True) == 0
    for run in ("generate-D-HEART-5-seed0-diffusion", "train_unet-D-HEART-5-seed0-diffusion-balanced-wo-2"):
        assert run in "\n".join(map(str, told))
