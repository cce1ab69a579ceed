"""A GAN's training: the same bits after kills, the losses of one process from two, and an end for every failure."""
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from kills import exit_code, killed_and_continued

import medaug.gan.training as training
from medaug.data.datasets import find_dataset
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import LeakError, split_patients
from medaug.data.store import SliceStore
from medaug.errors import UserError
from medaug.gan.checkpoints import load_checkpoint
from medaug.gan.config import GanConfig
from medaug.gan.generate import generate_mc_sg, generate_patients
from medaug.gan.training import MEASURES, train_gan

TINY = GanConfig("b-sg", 16, kimg=2.4, batch=8, channel_base=128, channel_max=8, z_dim=8, w_dim=8, mapping_layers=2,
                 snapshot_kimg=0.3, ema_kimg=0.2, ada_kimg=1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder, row = tmp_path_factory.mktemp("store"), find_dataset("brats20")
    write_phantom(row, folder/"phantom", patients=6, size=32, depth=8, progress_bar=False)
    return prepare_dataset(row, folder/"phantom", folder/"store", resolution=16, iterations=(10,), progress_bar=False)


@pytest.fixture(scope="module")
def split(store):
    return split_patients(store.patients, len(store.patients), seed=0)


def _train(path, config, out):
    """Train in a process of its own, with a snapshot every 0.05 seconds."""
    training._SNAPSHOT_SECONDS = 0.05
    store = SliceStore(path)
    train_gan(store, split_patients(store.patients, len(store.patients), seed=0), config, out)


def _content(out):
    """Everything that a training leaves: weights and values of the checkpoint, curves, and sample sheets."""
    checkpoint = torch.load(out/"checkpoint.pt", weights_only=True)
    weights = {(network, name): value.numpy().tobytes() for network in ("generator", "discriminator")
               for name, value in checkpoint.pop(network).items()}
    files = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".csv", ".png")}
    return weights, checkpoint, files


@pytest.mark.parametrize("gan", ["b-sg", "c-sg"])
def test_killed_at_random_moments_it_ends_with_the_same_bits(store, tmp_path, gan):
    train = partial(_train, store.path, replace(TINY, gan=gan))
    assert exit_code(train, tmp_path/"undisturbed") == 0
    disturbed = killed_and_continued(train, tmp_path, random.Random(gan), calls=130, seconds=0.4)
    assert _content(disturbed) == _content(tmp_path/"undisturbed")


@pytest.mark.parametrize("gan", ["b-sg", "c-sg"])
def test_two_processes_give_the_losses_of_one(store, split, tmp_path, gan):
    config = replace(TINY, gan=gan, batch=16, kimg=0.32, snapshot_kimg=0.016, learning_rate=1e-3)
    folders = (train_gan(store, split, replace(config, **how), tmp_path/str(number)).parent
               for number, how in enumerate(({}, {"devices": 2}, {"accumulate": 2})))
    one, two, parts = (pd.read_csv(folder/"curves.csv") for folder in folders)
    assert len(one) == 20 and one.generator_loss.std() > 1e-3
    for other in (two, parts):
        pd.testing.assert_frame_equal(other[list(MEASURES)], one[list(MEASURES)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gan", ["b-sg", "c-sg"])
@pytest.mark.parametrize("batch, shrink", [(1, 1), (1, 2), (2, 2), (2, 4), (3, 2)])
def test_the_smallest_batches_train(store, split, tmp_path, gan, batch, shrink):
    """A batch of one slice, and path lengths of one slice: all measures and weights are numbers."""
    config = replace(TINY, gan=gan, batch=batch, path_length_shrink=shrink, kimg=0.024*batch, snapshot_kimg=0.012)
    folder = train_gan(store, split, config, tmp_path).parent
    assert np.isfinite(pd.read_csv(folder/"curves.csv")[["generator_loss", "path_length", "variation"]]).all(axis=None)
    trained = load_checkpoint(folder/"checkpoint.pt")
    for network in (trained.generator, trained.discriminator):
        assert all(weight.isfinite().all() for weight in network.parameters())


def test_it_sees_training_patients_only(store, split, tmp_path, monkeypatch):
    read, asked = type(store).batch, []
    watched = lambda self, indices: asked.extend(np.ravel(indices)) or read(self, indices)
    monkeypatch.setattr(type(store), "batch", watched)
    train_gan(store, split, replace(TINY, kimg=0.3), tmp_path/"seen")
    assert {store.patient_of(number) for number in asked} == set(split.train)
    choose = type(store).slices

    def leaking(self, patients=None, **how):
        return choose(self, None if patients is None else [*patients, split.test[0]], **how)

    monkeypatch.setattr(type(store), "slices", leaking)
    with pytest.raises(LeakError, match=split.test[0]):
        train_gan(store, split, replace(TINY, kimg=0.3), tmp_path/"leaking")
    assert not (tmp_path/"leaking"/"checkpoint.pt").exists()


def test_a_nan_loss_stops_it_and_keeps_the_last_good_snapshot(store, split, tmp_path, monkeypatch):
    step = training.train_step

    def failing(fabric, state, *rest):
        measures = step(fabric, state, *rest)
        return {**measures, "generator_loss": torch.tensor(float("nan"))} if state.step == 20 else measures

    config = replace(TINY, kimg=0.3)
    monkeypatch.setattr(training, "_SNAPSHOT_SECONDS", 0)
    monkeypatch.setattr(training, "train_step", failing)
    with pytest.raises(UserError, match="generator_loss is no longer a number.*snapshot.pt"):
        train_gan(store, split, config, tmp_path/"failed")
    assert 0 < torch.load(tmp_path/"failed"/"snapshot.pt", weights_only=True)["training"]["step"] < 20
    monkeypatch.setattr(training, "train_step", step)
    continued, fine = (train_gan(store, split, config, tmp_path/name).parent for name in ("failed", "fine"))
    assert _content(continued) == _content(fine)


def _spoilt_at(number, spoil):
    """A training step that spoils the networks from step `number` on, and leaves the measures alone."""
    step = training.train_step

    def spoiling(fabric, state, *rest):
        measures = step(fabric, state, *rest)
        if state.step >= number:
            spoil(state)
        return measures

    return spoiling


def _collapse(state):
    with torch.no_grad():
        for network in (state.generator, state.average):
            for name, weight in network.named_parameters():
                if "affine.weight" in name or "noise_strength" in name:
                    weight.zero_()


def test_after_a_collapse_a_training_can_start_from_the_named_snapshot_before_it(store, split, tmp_path, monkeypatch):
    config = replace(TINY, kimg=0.4, snapshot_kimg=0.08)
    monkeypatch.setattr(training, "_SNAPSHOT_SECONDS", 0)
    monkeypatch.setattr(training, "train_step", _spoilt_at(20, _collapse))
    with pytest.raises(UserError, match="makes the same slice from everything.*last-good.pt"):
        train_gan(store, split, config, tmp_path/"failed")
    good = load_checkpoint(tmp_path/"failed"/"last-good.pt")
    assert good.kimg < 20*config.batch/1000
    assert good.generator(torch.randn(8, config.z_dim), noise="none").std(0).mean() > 0.001
    monkeypatch.undo()
    again = replace(config, init=str(tmp_path/"failed"/"last-good.pt"), learning_rate=1e-4, kimg=0.08)
    folder = train_gan(store, split, again, tmp_path/"again").parent
    assert sorted(path.name for path in folder.glob("*.pt")) == ["checkpoint.pt"]


def test_nan_weights_never_reach_a_snapshot(store, split, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_SNAPSHOT_SECONDS", 0)
    spoil = lambda state: state.average.mapping.layers[0].weight.data.fill_(float("nan"))
    monkeypatch.setattr(training, "train_step", _spoilt_at(20, spoil))
    with pytest.raises(UserError, match="a weight of the averaged generator is no longer a number.*snapshot.pt"):
        train_gan(store, split, replace(TINY, kimg=0.3), tmp_path)
    assert all(weight.isfinite().all() for weight in load_checkpoint(tmp_path/"snapshot.pt").generator.parameters())


def test_a_failure_of_one_of_several_processes_gives_one_line(store, split, tmp_path):
    with pytest.raises(UserError, match="is no longer a number"):
        train_gan(store, split, replace(TINY, devices=2, learning_rate=1e9, kimg=0.3), tmp_path)


def test_generation_continued_and_extended_is_the_same(store, split, tmp_path):
    m_sg, c_sg = (train_gan(store, split, replace(TINY, gan=gan, kimg=0.1), tmp_path/gan) for gan in ("m-sg", "c-sg"))
    images = lambda folder: {path.relative_to(folder): path.read_bytes()
                             for path in sorted(folder.rglob("*.nii.gz"))}
    all_at_once = images(generate_mc_sg(m_sg, c_sg, tmp_path/"at once", 6))
    generate_mc_sg(m_sg, c_sg, tmp_path/"in turn", 2)
    (tmp_path/"in turn"/"patient_0001"/"label.nii.gz").rename(tmp_path/"lost.nii.gz")
    (tmp_path/"in turn"/"patient_0001"/"image.nii.gz").unlink()
    (tmp_path/"in turn"/"patient_0001").rmdir()
    assert images(generate_mc_sg(m_sg, c_sg, tmp_path/"in turn", 6)) == all_at_once
    masks = generate_patients(m_sg, tmp_path/"masks", 6)
    assert images(generate_patients(c_sg, tmp_path/"from masks", 6, masks_from=masks)) == all_at_once
