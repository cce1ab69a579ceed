"""A U-Net's training ends with the same bits after kills, with the same gradient in several processes, and learns."""
import random
import sys
from functools import partial

import pytest
import torch
from conftest import CHECKOUT
from kills import exit_code, killed_and_continued

from medaug.data.channels import one_hot
from medaug.data.datasets import find_dataset
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import Split, split_patients
from medaug.data.store import SliceStore
from medaug.evaluation.scores import score_test_patients
from medaug.seeds import torch_generator
from medaug.seg.accumulation import accumulate_gradient
from medaug.seg.predict import load_unet
from medaug.seg.training import UNetConfig, train_unet
from medaug.seg.unet import UNet

sys.path.insert(0, str(CHECKOUT/"benchmarks"))
from unet_phantom import threshold_dsc  # noqa: E402


def _prepared(folder, name, patients, size, depth, resolution):
    row = find_dataset(name)
    write_phantom(row, folder/name, patients=patients, size=size, depth=depth, progress_bar=False)
    store = folder/f"{name}-store"
    return prepare_dataset(row, folder/name, store, resolution=resolution, iterations=(10,), progress_bar=False)


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    return _prepared(tmp_path_factory.mktemp("hearts"), "d-heart", patients=8, size=32, depth=10, resolution=32)


def _content(out):
    checkpoint = torch.load(out/"checkpoint.pt", weights_only=True)
    weights = {name: value.numpy().tobytes() for name, value in checkpoint.pop("unet").items()}
    return weights, checkpoint, (out/"curves.csv").read_bytes()


def _train(path, out):
    store = SliceStore(path)
    config = UNetConfig(epochs=30, batch=8, width=8, depth=2, learning_rate=0.01, augmentation=True, generated=2,
                        recipe="balanced")
    train_unet(store, split_patients(store.patients, len(store.patients), seed=0), config, out, generated=store)


def test_killed_at_random_moments_it_ends_with_the_same_bits(hearts, tmp_path):
    train = partial(_train, hearts.path)
    assert exit_code(train, tmp_path/"undisturbed") == 0
    disturbed = killed_and_continued(train, tmp_path, random.Random(0), calls=14, seconds=0.3)
    assert _content(disturbed) == _content(tmp_path/"undisturbed")


def _gradient_of_a_share(fabric, path):
    """Run in each process: the gradient of one batch of seven slices, of which each process has its share."""
    unet = UNet(1, 1, width=4, depth=2, generator=torch_generator("shares"))
    images = torch.randn(7, 1, 16, 16, generator=torch_generator("shares", "images"))
    masks = one_hot((images[:, 0] > torch.linspace(-0.5, 1.5, 7)[:, None, None]).long(), 1)
    whole = fabric.setup(unet)
    whole.eval()
    share = slice(fabric.global_rank, None, fabric.world_size)
    pieces = list(zip(images[share].tensor_split(2), masks[share].tensor_split(2)))
    loss = accumulate_gradient(fabric, whole, pieces)
    if fabric.global_rank == 0:
        torch.save((torch.cat([weight.grad.flatten() for weight in unet.parameters()]), loss), path)


def test_two_processes_give_the_gradient_of_one(tmp_path):
    from lightning_fabric import Fabric
    for processes in (1, 2):
        fabric = Fabric(accelerator="cpu", devices=processes, strategy="ddp_spawn" if processes > 1 else "auto")
        fabric.launch(_gradient_of_a_share, tmp_path/f"{processes}.pt")
    results = (torch.load(tmp_path/f"{processes}.pt", weights_only=True) for processes in (1, 2))
    (one, one_loss), (two, two_loss) = results
    assert one.norm() > 1e-3
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(two_loss, one_loss)


def test_two_processes_train_a_unet(hearts, tmp_path):
    split = split_patients(hearts.patients, len(hearts.patients), seed=0)
    config = UNetConfig(epochs=20, batch=8, width=8, depth=2, learning_rate=0.01, devices=2)
    trained = load_unet(train_unet(hearts, split, config, tmp_path/"unet"))
    assert trained.dsc > 0.4 and trained.training_patients == split.train


SMALL = UNetConfig(epochs=12, batch=16, width=8, depth=3, learning_rate=0.01)


def _unet_dsc(store, split, out, **changes):
    from dataclasses import replace
    trained = load_unet(train_unet(store, split, replace(SMALL, **changes), out))
    return score_test_patients(trained, store, split, find_dataset(store.dataset).tolerance).dsc.mean()


@pytest.mark.parametrize("name", ["brats20", "d-heart"])
def test_a_unet_finds_what_a_threshold_cannot(name, tmp_path):
    store = _prepared(tmp_path, name, patients=20, size=64, depth=16, resolution=64)
    split = split_patients(store.patients, 20, seed=0)
    assert len(split.train) == 12
    by_threshold, by_unet = threshold_dsc(store, split), _unet_dsc(store, split, tmp_path/"unet")
    print(f"{name}: threshold {by_threshold:.2f}, U-Net {by_unet:.2f}")
    assert by_unet > by_threshold + 0.1
    if name == "brats20":
        fewer = Split(split.train[:2], split.validation, split.test)
        two_patients = _unet_dsc(store, fewer, tmp_path/"fewer", epochs=72)
        two_epochs = _unet_dsc(store, split, tmp_path/"shorter", epochs=2)
        print(f"two patients, as many steps {two_patients:.2f}; two epochs {two_epochs:.2f}")
        assert by_unet > two_patients and by_unet > two_epochs
