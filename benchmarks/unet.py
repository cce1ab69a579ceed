"""How fast is the U-Net trained and used here, beside MONAI's BasicUNet of the same widths in float32, in the same run?

    python benchmarks/unet.py [--size 256] [--width 32] [--batches 8 64] [--seconds 4] [--rounds 1]

Slices of 4 modalities, three classes and background, widths from `--width` to 16 times that in five levels. The peer is
trained as its users do: float32, the usual memory layout, MONAI's DiceLoss, Adam; batch 64 in pieces of 8 whose losses
are averaged. Ours is `train_unet`'s own step in float32 and in bf16: channels_last, memory kept; a batch of 64 in two
passes over pieces of 8, with the statistics of the whole, and in one piece, where there is memory for that. Each
measurement is a process of its own. The programs take turns `--rounds` times, because the machine may be busy. Peak
memory is counted above the memory after the imports. `augmentation` is augmentation's share of a step. `validation DSC`
is the DSC on the same held-out slices after the same number of steps, for three seeds. Writes results/unet.json.
"""
import argparse
import json
import subprocess
import sys
import time

import torch
from machine import machine, median_and_range, peak_memory, write_results

PIECE, CLASSES, MODALITIES = 8, 3, 4


def timed(step, seconds):
    """Seconds a call of `step`, the median of as many as begin within `seconds`."""
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times)//2]


def slices(batch, size):
    """Images (N, 4, size, size) and label maps in which each class is a range of the first modality."""
    from medaug.seeds import torch_generator

    images = (
        torch.nn.functional.avg_pool2d(
            torch.randn(batch, MODALITIES, size, size, generator=torch_generator("benchmark", size)), 9, 1, 4
        )
        * 9
    )
    return images, torch.bucketize(images[:, 0].contiguous(), torch.tensor([0.5, 1.0, 1.5])).to(torch.uint8)


def monai(width):
    from monai.losses import DiceLoss
    from monai.networks.nets import BasicUNet

    unet, loss = (
        BasicUNet(2, MODALITIES, CLASSES + 1, features=(width, 2 * width, 4 * width, 8 * width, 16 * width, width)),
        DiceLoss(to_onehot_y=True, softmax=True),
    )
    optimiser = torch.optim.Adam(unet.parameters(), lr=1e-3)

    def step(images, labels):
        unet.train()
        optimiser.zero_grad()
        pieces = list(zip(images.split(PIECE), labels.split(PIECE)))
        for some, masks in pieces:
            (loss(unet(some), masks[:, None])/len(pieces)).backward()
        optimiser.step()

    def predict(images):
        unet.eval()
        with torch.inference_mode():
            return unet(images).argmax(1)
    return step, predict


def medaug(width, precision, micro_batch=PIECE):
    from medaug.devices import make_fabric
    from medaug.memory import keep_memory
    from medaug.seg.config import UNetConfig
    from medaug.seg.training import _piece_count, _set_up, _step
    from medaug.seg.unet import UNet, folded
    torch.set_flush_denormal(True)
    keep_memory()
    config = UNetConfig(
        epochs=1,
        batch=64,
        width=width,
        depth=4,
        learning_rate=1e-3,
        precision=precision,
        micro_batch=micro_batch,
    )
    fabric = make_fabric(precision, accelerator="cpu")
    unet, optimiser = _set_up(fabric, UNet(MODALITIES, CLASSES, width, 4), config)

    def step(images, labels):
        _step(fabric, unet, optimiser, (images, labels), config, True, _piece_count(len(images), config), 0)

    def predict(images):
        quick = folded(unet.module)
        with torch.inference_mode(), fabric.autocast():
            return quick(images.contiguous(memory_format=torch.channels_last)).argmax(1)
    return step, predict


WHO = {
    "BasicUNet float32": monai,
    "medaug float32": lambda width: medaug(width, "32-true"),
    "medaug bf16": lambda width: medaug(width, "bf16-mixed"),
    "medaug bf16, the batch whole": lambda width: medaug(width, "bf16-mixed", None),
}
OURS = [who for who in WHO if "bf16" in who]


def measure(who, size, width, batch, seconds):
    """The results of one measurement."""
    step, predict = WHO[who](width)
    images, labels = slices(batch, size)
    before = peak_memory()
    first = batch if who.endswith("whole") else PIECE
    # the first steps allocate memory and prepare kernels, so they are not timed
    for _ in range(2):
        step(images[:first], labels[:first])
    training = timed(lambda: step(images, labels), seconds)
    memory = peak_memory() - before
    predict(images[:PIECE])
    inference = timed(lambda: predict(images[:PIECE]), seconds/4)
    return {"training img/s": batch/training, "inference img/s": PIECE/inference, "training memory MiB": memory/2**20}


def augmentation_share(size, width, batch=PIECE, repetitions=4):
    """The median times of augmenting a batch and of a bf16 step, and augmentation's share of their sum."""
    from medaug.data.augmentation import augment
    from medaug.seeds import torch_generator
    images, labels = slices(batch, size)
    step, _ = medaug(width, "bf16-mixed")
    step(images, labels)
    move = lambda: augment(images, labels, torch_generator("benchmark"), True)
    move()
    moving = timed(move, repetitions/4)
    training = timed(lambda: step(images, labels), repetitions)
    return {
        "batch": batch,
        "moving ms": round(1e3 * moving, 1),
        "step ms": round(1e3 * training),
        "share": round(moving / (moving + training), 4),
    }


def learnt(who, width, seed, steps=160, size=64):
    """The mean DSC over classes on held-out slices, after `steps` steps of 8 slices."""
    from medaug.seg.dice import dice_score
    torch.manual_seed(seed)
    step, predict = WHO[who](width)
    images, labels = slices(72, size)
    for number in range(steps):
        some = slice(8*(number % 8), 8*(number % 8) + 8)
        step(images[some], labels[some])
    return round(dice_score(predict(images[64:]), labels[64:], CLASSES).mean().item(), 3)


def run_apart(*words):
    told = subprocess.run(
        [sys.executable, __file__, *map(str, words)], check=True, capture_output=True, text=True
    ).stdout
    return json.loads(told.splitlines()[-1])


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--size", type=int, default=256)
    arguments.add_argument("--width", type=int, default=32)
    arguments.add_argument("--batches", type=int, nargs="+", default=[8, 64])
    arguments.add_argument("--seconds", type=float, default=4)
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--one", nargs=2)
    given = arguments.parse_args()
    if given.one:
        who, batch = given.one
        print(
            json.dumps(
                {
                    "augmentation": lambda: augmentation_share(given.size, given.width),
                    "learnt": lambda: [learnt(batch, 16, seed) for seed in range(3)],
                }.get(who, lambda: measure(who, given.size, given.width, int(batch), given.seconds))()
            )
        )
        return
    results = {
        "question": " ".join(__doc__.splitlines()[0].split()),
        **machine("torch", "monai"),
        "threads": torch.get_num_threads(),
        "slice": f"{MODALITIES} × {given.size} × {given.size}",
        "widths": [given.width * 2**level for level in range(5)],
    }
    settings = ("--size", given.size, "--width", given.width, "--seconds", given.seconds)
    for batch in given.batches:
        rounds = [{who: run_apart(*settings, "--one", who, batch) for who in WHO} for _ in range(given.rounds)]
        results[f"batch {batch}"] = {
            who: {what: median_and_range([one[who][what] for one in rounds], 1) for what in rounds[0][who]}
            for who in WHO
        }
        results[f"batch {batch}, against the peer"] = {
            ours: {
                what: median_and_range([one[ours][what] / one["BasicUNet float32"][what] for one in rounds], 2)
                for what in rounds[0][ours]
            }
            for ours in OURS
        }
    results["augmentation"] = run_apart(*settings, "--one", "augmentation", 0)
    results["validation DSC"] = {who: median_and_range(run_apart("--one", "learnt", who), 3) for who in list(WHO)[:3]}
    write_results(__file__, results)


if __name__ == "__main__":
    main()
