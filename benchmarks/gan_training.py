"""How fast are the GANs trained and sampled here, beside stylegan2_pytorch (PyPI) in the same run?

    python benchmarks/gan_training.py [--device cpu] [--cases 64 128 256] [--steps 16] [--seconds 10]
    python benchmarks/gan_training.py --device cuda

needs `pip install stylegan2_pytorch` (1.9.0; `aim`, its logger, is replaced by nothing where it is missing; its check for CUDA is
answered with yes while it is imported, and its parts are used without its trainer, which has .cuda() written into it).

Each measurement is a process of its own: peak memory is that process's beyond what importing took. One step is a discriminator and a
generator update with R1 in every 16th step and path length regularisation in every 4th, `--steps` of them after a few that are not timed; the peer is driven
through the same schedule with its own networks, losses and penalties. Its differences: 4 image channels where ours has 5 (it makes 3 or 4),
noise from one map for all layers, 1 + style without an equalised learning rate in the convolutions, bilinear upsampling, blur of 3 taps,
hinge loss, no minibatch standard deviation. `bound` is how many images a second there would be if all convolutions and matrix products ran at
the rate of a plain large convolution measured in the same process, and everything else took no time. `share_of_device` is the part of
the rate of a large matrix product, measured in the same process too, that a training step reaches.

On a GPU: 256 × 256 with batch 32, float16 besides, peak memory as PyTorch's allocator saw it, and results/gan_training_cuda.json.
"""
import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from machine import machine, write_results

# resolution: (channel_base, channel_max, batch), and the peer's network_capacity that gives the same widths
CASES = {64: (8192, 128, 8, 64), 128: (8192, 256, 4, 32), 256: (16384, 512, 4, 32)}
GPU_CASES = CASES | {256: (16384, 512, 32, 32)}
# name: (Fabric's, the type of the features)
PRECISIONS = {"float32": ("32-true", torch.float32), "bf16": ("bf16-mixed", torch.bfloat16), "float16": ("16-mixed", torch.float16)}
CHANNELS = {"medaug": 5, "stylegan2_pytorch": 4}


def clock():
    """The time in seconds once a GPU has done what was asked of it."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(step, seconds, least=3):
    """Seconds a call of `step`, the median of as many as fit into `seconds`, after one that doesn't count."""
    step()
    times, end = [], clock() + seconds
    while len(times) < least or clock() < end:
        begin = clock()
        step()
        times.append(clock() - begin)
    return sorted(times)[len(times)//2]


def convolution_rate(precision, device, batch=4, seconds=2):
    """GFLOP/s of a 3×3 convolution of 256 to 256 channels at 64×64."""
    kind = {"dtype": PRECISIONS[precision][1], "device": device}
    x = torch.randn(batch, 256, 64, 64, **kind).to(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, **kind).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        duration = timed(lambda: torch.nn.functional.conv2d(x, weight, padding=1), seconds)
    return 2*batch*64*64*256*256*9/duration/1e9


def matrix_rate(precision, device, seconds=2):
    """GFLOP/s of a product of two square matrices, of 2048 rows, of 8192 on a GPU."""
    size = 8192 if device == "cuda" else 2048
    a, b = torch.randn(2, size, size, dtype=PRECISIONS[precision][1], device=device)
    with torch.inference_mode():
        return 2*size**3/timed(lambda: a @ b, seconds)/1e9


class Operations(TorchDispatchMode):
    """Counts the floating-point operations of convolutions and matrix products, those of backward passes too."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result, known = function(*args, **(kwargs or {})), flop_registry.get(function._overloadpacket)
        self.total += known(*args, **(kwargs or {}), out_val=result) if known else 0
        return result


def gflop(call):
    with Operations() as operations:
        call()
    return operations.total/1e9


def medaug(case, precision, device):
    """(one training step, generating one batch, one image through the generator, one through the discriminator)."""
    from medaug.devices import make_fabric
    from medaug.gan.checkpoints import DataDescription, GanConfig
    from medaug.gan.steps import make_players, train_step
    from medaug.memory import keep_memory
    torch.set_flush_denormal(True)
    keep_memory()
    resolution, base, largest, batch, _ = case
    config = GanConfig("b-sg", resolution, batch=batch, ada=False, channel_base=base, channel_max=largest, precision=PRECISIONS[precision][0])
    data = DataDescription("none", ("a", "b"), ("c", "d"), resolution, ((0., 1.),)*2, 8, (1., 1., 1.), 2, ("p",), "none")
    fabric = make_fabric(config.precision, accelerator=device)
    players, _ = make_players(config, data, fabric.device)
    real, z = torch.randn(batch, 5, resolution, resolution), torch.randn(batch, config.z_dim, device=device)

    def generate():
        with torch.inference_mode(), fabric.autocast():
            players.average(z)

    images = torch.randn(1, 5, resolution, resolution, device=device)
    return lambda: train_step(fabric, players, config, data, (real, None)), generate, lambda: players.average(z[:1]), lambda: players.discriminator(images)


def _peer():
    """The peer's module, on a machine that lacks a GPU, its logger, or the operators of a torchvision for another torch."""
    from types import ModuleType
    from unittest.mock import patch
    try:
        import aim
    except ImportError:
        sys.modules["aim"] = ModuleType("aim")
    try:
        import torchvision
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    with patch.object(torch.cuda, "is_available", lambda: True):
        from stylegan2_pytorch import stylegan2_pytorch as peer
    return peer


def stylegan2_pytorch(case, precision, device):
    """The same of the peer."""
    peer = _peer()
    resolution, _, largest, batch, capacity = case
    sizes = dict(network_capacity=capacity, transparent=True, fmap_max=largest)
    S, G, D = peer.StyleVectorizer(512, 8, lr_mul=0.1), peer.Generator(resolution, 512, **sizes), peer.Discriminator(resolution, **sizes)
    SE, GE = peer.StyleVectorizer(512, 8, lr_mul=0.1), peer.Generator(resolution, 512, **sizes)
    for network in (S, G, D, SE, GE):
        network.to(device)
    average, averaged = peer.EMA(0.995), list(zip([*SE.parameters(), *GE.parameters()], [*S.parameters(), *G.parameters()]))
    of_g, of_d = (torch.optim.Adam(parameters, lr=1e-4, betas=(0.5, 0.9)) for parameters in ([*S.parameters(), *G.parameters()], D.parameters()))
    real, step, mean = torch.rand(batch, 4, resolution, resolution, device=device), [0], [None]
    kind = PRECISIONS[precision][1]
    autocast = lambda: torch.autocast(device, kind, enabled=kind != torch.float32)
    styles = lambda vectorizer, n=batch: vectorizer(torch.randn(n, 512, device=device))[:, None].expand(-1, G.num_layers, -1)
    noise = lambda n=batch: torch.rand(n, resolution, resolution, 1, device=device)

    def train():
        of_d.zero_grad()
        with autocast():
            fake = G(styles(S), noise()).detach()
            x = real.clone().requires_grad_(step[0] % 16 == 0)
            real_logits, loss = D(x)[0].float(), 0
            loss = peer.hinge_loss(D(fake)[0].float(), real_logits)
        if step[0] % 16 == 0:
            loss = loss + peer.gradient_penalty(x, real_logits)
        loss.backward()
        of_d.step()
        of_g.zero_grad()
        with autocast():
            loss = peer.gen_hinge_loss(D(G(styles(S), noise()))[0].float(), None)
        loss.backward()
        of_g.step()
        if step[0] % 4 == 0:
            path_length()
        with torch.no_grad():
            for old, new in averaged:
                old.data = average.update_average(old.data, new.data)
        step[0] += 1

    def path_length():
        of_g.zero_grad()
        with autocast():
            ws = styles(S, batch//2)
            images = G(ws, noise(batch//2))
        lengths = peer.calc_pl_lengths(ws, images.float())
        mean[0] = lengths.mean().item() if mean[0] is None else mean[0]
        ((lengths - mean[0])**2).mean().backward()
        of_g.step()

    def generate():
        with torch.inference_mode(), autocast():
            GE(styles(SE), noise())

    return train, generate, lambda: GE(styles(SE, 1), noise(1)), lambda: D(real[:1])


def training_cost(train):
    """GFLOP of a step, the mean over a cycle of 16: the first has R1 and path length regularisation, three more the latter, twelve neither."""
    first, second, *_, fifth = [gflop(train) for _ in range(5)]
    return (first + 12*second + 3*fifth)/16


def peak(device):
    """MiB that the process, or PyTorch on a GPU, has held at most."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()/2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024


def measure(program, resolution, precision, device, steps, seconds):
    torch.manual_seed(0)
    case = (resolution, *(GPU_CASES if device == "cuda" else CASES)[resolution])
    batch = case[3]
    train, generate, make_one, judge_one = {"medaug": medaug, "stylegan2_pytorch": stylegan2_pytorch}[program](case, precision, device)
    before = peak(device)
    generating = batch/timed(generate, seconds)
    generating_peak = peak(device) - before
    cost = training_cost(train) if program == "medaug" else train()
    begin = clock()
    for _ in range(steps):
        train()
    training, training_peak = batch*steps/(clock() - begin), peak(device) - before
    of_generating = gflop(make_one)
    rate, product = convolution_rate(precision, device, batch if device == "cuda" else 4), matrix_rate(precision, device)
    told = {"program": program, "resolution": resolution, "precision": precision, "batch": batch, "image_channels": CHANNELS[program],
            "training_images_per_second": round(training, 3), "generating_images_per_second": round(generating, 2),
            "training_peak_mib": round(training_peak), "generating_peak_mib": round(generating_peak), "forward_gflop_per_image": round(of_generating + gflop(judge_one), 2),
            "generating_gflop_per_image": round(of_generating, 2), "convolution_gflop_per_second": round(rate), "matrix_gflop_per_second": round(product), "bound_generating_images_per_second": round(rate/of_generating, 1)}
    if program == "medaug":     # PyTorch's count of a grouped convolution's gradients, which the peer has, is too high
        told |= {"training_gflop_per_image": round(cost/batch, 2), "bound_training_images_per_second": round(rate*batch/cost, 2), "share_of_device": round(training*cost/batch/product, 3)}
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--cases", type=int, nargs="+", choices=list(CASES))
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS))
    parser.add_argument("--steps", type=int, default=16, help="training steps, a multiple of 16 for whole cycles of lazy regularisation")
    parser.add_argument("--seconds", type=float, default=10, help="for generating")
    parser.add_argument("--note", default="", help="what else was going on, kept with the results")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        program, resolution, precision = arguments.one
        print(json.dumps(measure(program, int(resolution), precision, arguments.device, arguments.steps, arguments.seconds)))
        return
    compare(arguments)


def compare(arguments):
    """Ours and the peer's measurements side by side, written after each pair."""
    gpu = arguments.device == "cuda"
    begin, rows = {**machine("torch"), "threads": torch.get_num_threads(), "note": arguments.note}, []
    begin |= {"GPU": torch.cuda.get_device_name()} if gpu else {}
    for resolution in arguments.cases or ([256] if gpu else list(CASES)):
        for precision in arguments.precisions or list(PRECISIONS)[:3 if gpu else 2]:
            for program in CHANNELS:
                command = [sys.executable, __file__, "--one", program, str(resolution), precision, "--device", arguments.device, "--steps", str(arguments.steps),
                           "--seconds", str(arguments.seconds)]
                rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]))
                print(rows[-1])
            ours, peers = rows[-2:]
            print({"ratio": {name: round(ours[name]/peers[name], 2) for name in ours if name.startswith(("training_images", "generating_images"))}})
            write_results(Path(__file__).with_stem("gan_training_cuda") if gpu else __file__, {**begin, "rows": rows})


if __name__ == "__main__":
    main()
