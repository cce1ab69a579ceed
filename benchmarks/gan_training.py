"""How fast are the GANs trained and sampled here, beside stylegan2_pytorch (PyPI) in the same run?

    python benchmarks/gan_training.py [--device cpu] [--cases 64 128 256] [--steps 16] [--original DIR]
    python benchmarks/gan_training.py --device cuda

needs `pip install stylegan2_pytorch` (1.9.0; `aim`, its logger, is replaced by nothing where it is missing; its check
for CUDA is answered with yes while it is imported, and its parts are used without its trainer, which has .cuda()
written into it).

Each measurement is a process of its own: peak memory is that process's beyond what importing took. One step is a
discriminator and a generator update with R1 in every 16th step and path length regularisation in every 4th, `--steps`
of them after a few that are not timed; the peer is driven through the same schedule with its own networks, losses and
penalties. Its differences: 4 image channels where ours has 5 (it makes 3 or 4), noise from one map for all layers, 1 +
style without an equalised learning rate in the convolutions, bilinear upsampling, blur of 3 taps, hinge loss, no
minibatch standard deviation. `bound` is how many images a second there would be if all convolutions and matrix products
ran at the rate of a plain large convolution measured in the same process, and everything else took no time.
`share_of_device` is the part of the rate of a large matrix product, measured in the same process too, that a training
step reaches; `share_of_convolution_rate` is its part of the rate of the plain convolution in that precision.

`--original DIR` measures the program in that folder too, a checkout of NVIDIA's stylegan2-ada-pytorch, which has its
own licence and is on no registry: its networks with the same widths and channels, driven through the same schedule. It
knows no bf16 and so computes in float32 on a processor, whatever the precision of the others.

On a GPU: 256 × 256 with batch 32, float16 besides, peak memory as PyTorch's allocator saw it, and
results/gan_training_cuda.json. """
import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import machine, peak_memory, write_results
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# resolution: (channel_base, channel_max, batch), and the peer's network_capacity that gives the same widths
CASES = {64: (8192, 128, 8, 64), 128: (8192, 256, 4, 32), 256: (16384, 512, 4, 32)}
GPU_CASES = CASES | {256: (16384, 512, 32, 32)}
# name: (Fabric's, the type of the features)
PRECISIONS = {
    "float32": ("32-true", torch.float32),
    "bf16": ("bf16-mixed", torch.bfloat16),
    "float16": ("16-mixed", torch.float16),
}
CHANNELS = {"medaug": 5, "stylegan2_pytorch": 4}
ORIGINAL = "stylegan2-ada-pytorch"


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
    from medaug.gan.checkpoints import DataDescription
    from medaug.gan.config import GanConfig
    from medaug.gan.steps import make_training, train_step
    from medaug.memory import keep_memory
    torch.set_flush_denormal(True)
    keep_memory()
    resolution, base, largest, batch, _ = case
    config = GanConfig(
        "b-sg",
        resolution,
        batch=batch,
        ada=False,
        channel_base=base,
        channel_max=largest,
        precision=PRECISIONS[precision][0],
    )
    data = DataDescription(
        "none", ("a", "b"), ("c", "d"), resolution, ((0.0, 1.0),) * 2, 8, (1.0, 1.0, 1.0), 2, ("p",), "none"
    )
    fabric = make_fabric(config.precision, accelerator=device)
    training, _ = make_training(config, data, fabric.device)
    real, z = torch.randn(batch, 5, resolution, resolution), torch.randn(batch, config.z_dim, device=device)

    def generate():
        with torch.inference_mode(), fabric.autocast():
            training.average(z)

    images = torch.randn(1, 5, resolution, resolution, device=device)
    return (
        lambda: train_step(fabric, training, config, data, (real, None)),
        generate,
        lambda: training.average(z[:1]),
        lambda: training.discriminator(images),
    )


def _peer():
    """The peer's module, on a machine that lacks a GPU, its logger, or the operators of a torchvision for another
    torch."""
    from types import ModuleType
    from unittest.mock import patch
    try:
        import aim  # noqa: F401
    except ImportError:
        sys.modules["aim"] = ModuleType("aim")
    try:
        pass
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
    S, G, D = (
        peer.StyleVectorizer(512, 8, lr_mul=0.1),
        peer.Generator(resolution, 512, **sizes),
        peer.Discriminator(resolution, **sizes),
    )
    SE, GE = peer.StyleVectorizer(512, 8, lr_mul=0.1), peer.Generator(resolution, 512, **sizes)
    for network in (S, G, D, SE, GE):
        network.to(device)
    average, averaged = (
        peer.EMA(0.995),
        list(zip([*SE.parameters(), *GE.parameters()], [*S.parameters(), *G.parameters()])),
    )
    of_g, of_d = (
        torch.optim.Adam(parameters, lr=1e-4, betas=(0.5, 0.9))
        for parameters in ([*S.parameters(), *G.parameters()], D.parameters())
    )
    real, step, mean = torch.rand(batch, 4, resolution, resolution, device=device), [0], [None]
    kind = PRECISIONS[precision][1]
    autocast = lambda: torch.autocast(device, kind, enabled=kind != torch.float32)
    styles = lambda vectorizer, n=batch: vectorizer(torch.randn(n, 512, device=device))[:, None].expand(
        -1, G.num_layers, -1
    )
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


def original(folder, case, device):
    """The same of the networks in `folder`, a checkout of stylegan2-ada-pytorch."""
    sys.path.insert(0, str(folder))
    from training.networks import Discriminator, Generator
    F, (resolution, base, largest, batch, _) = torch.nn.functional, case
    widths = dict(channel_base=base, channel_max=largest, num_fp16_res=0)
    make = lambda: Generator(512, 0, 512, resolution, 5, synthesis_kwargs=widths).to(device)
    G, average, D = make(), make().requires_grad_(False), Discriminator(0, resolution, 5, **widths).to(device)
    of_g, of_d = (
        torch.optim.Adam(network.parameters(), lr=2.5e-3*ratio, betas=(0.0, 0.99**ratio))
        for network, ratio in ((G, 4/5), (D, 16/17))
    )
    real, step, mean = torch.randn(batch, 5, resolution, resolution, device=device), [0], torch.zeros((), device=device)
    draw = lambda n=batch: torch.randn(n, 512, device=device)

    def update(optimiser, network, loss):
        optimiser.zero_grad(set_to_none=True)
        for one in (G, D):
            one.requires_grad_(one is network)
        loss().backward()
        optimiser.step()

    def r1():
        x = real.clone().requires_grad_()
        gradient, = torch.autograd.grad(D(x, None).sum(), x, create_graph=True)
        return gradient.square().sum((1, 2, 3)).mean()

    def path_length():
        ws = G.mapping(draw(batch//2), None)
        images = G.synthesis(ws)
        noise = torch.randn_like(images)/resolution
        gradient, = torch.autograd.grad((images*noise).sum(), ws, create_graph=True)
        lengths = gradient.square().sum(2).mean(1).sqrt()
        mean.lerp_(lengths.detach().mean(), 0.01)
        return (lengths - mean).square().mean()

    def train():
        with torch.no_grad():
            fake = G(draw(), None)
        update(of_d, D, lambda: F.softplus(D(fake, None)).mean() + F.softplus(-D(real, None)).mean())
        if step[0] % 16 == 0:
            update(of_d, D, r1)
        update(of_g, G, lambda: F.softplus(-D(G(draw(), None), None)).mean())
        if step[0] % 4 == 0:
            update(of_g, G, path_length)
        with torch.no_grad():
            for old, new in zip(average.parameters(), G.parameters()):
                old.lerp_(new, 0.005)
        step[0] += 1

    def generate():
        with torch.inference_mode():
            average(draw(), None)

    return train, generate, lambda: average(draw(1), None), lambda: D(real[:1], None)


def training_cost(train):
    """GFLOP of a step, the mean over a cycle of 16: the first has R1 and path length regularisation, three more the
    latter, twelve neither."""
    first, second, *_, fifth = [gflop(train) for _ in range(5)]
    return (first + 12*second + 3*fifth)/16


def peak(device):
    """MiB that the process, or PyTorch on a GPU, has held at most."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()/2**20
    return peak_memory()/2**20


def measure(program, resolution, precision, device, steps, seconds, folder=None):
    torch.manual_seed(0)
    case = (resolution, *(GPU_CASES if device == "cuda" else CASES)[resolution])
    batch = case[3]
    if program == ORIGINAL:
        train, generate, make_one, judge_one = original(folder, case, device)
    else:
        drivers = {"medaug": medaug, "stylegan2_pytorch": stylegan2_pytorch}
        train, generate, make_one, judge_one = drivers[program](case, precision, device)
    before = peak(device)
    generating = batch/timed(generate, seconds)
    generating_peak = peak(device) - before
    cost = training_cost(train) if program == "medaug" else train()
    begin = clock()
    for _ in range(steps):
        train()
    training, training_peak = batch*steps/(clock() - begin), peak(device) - before
    of_generating = gflop(make_one)
    rate, product = (
        convolution_rate(precision, device, batch if device == "cuda" else 4),
        matrix_rate(precision, device),
    )
    told = {
        "program": program,
        "resolution": resolution,
        "precision": precision,
        "batch": batch,
        "image_channels": CHANNELS.get(program, 5),
        "training_images_per_second": round(training, 3),
        "generating_images_per_second": round(generating, 2),
        "training_peak_mib": round(training_peak),
        "generating_peak_mib": round(generating_peak),
        "forward_gflop_per_image": round(of_generating + gflop(judge_one), 2),
        "generating_gflop_per_image": round(of_generating, 2),
        "convolution_gflop_per_second": round(rate),
        "matrix_gflop_per_second": round(product),
        "bound_generating_images_per_second": round(rate / of_generating, 1),
    }
    if program == "medaug":  # PyTorch's count of a grouped convolution's gradients, which the peer has, is too high
        told |= {
            "training_gflop_per_image": round(cost / batch, 2),
            "bound_training_images_per_second": round(rate * batch / cost, 2),
            "share_of_device": round(training * cost / batch / product, 3),
            "share_of_convolution_rate": round(training * cost / batch / rate, 3),
        }
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--cases", type=int, nargs="+", choices=list(CASES))
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS))
    parser.add_argument(
        "--steps", type=int, default=16, help="training steps, a multiple of 16 for whole cycles of lazy regularisation"
    )
    parser.add_argument("--seconds", type=float, default=10, help="for generating")
    parser.add_argument("--note", default="", help="what else was going on, kept with the results")
    parser.add_argument("--original", type=Path, help="a checkout of stylegan2-ada-pytorch, to be measured too")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        program, resolution, precision = arguments.one
        print(
            json.dumps(
                measure(
                    program,
                    int(resolution),
                    precision,
                    arguments.device,
                    arguments.steps,
                    arguments.seconds,
                    arguments.original,
                )
            )
        )
        return
    compare(arguments)


def compare(arguments):
    """Ours and the others' measurements side by side, written after each case."""
    gpu = arguments.device == "cuda"
    begin, rows = {**machine("torch"), "threads": torch.get_num_threads(), "note": arguments.note}, []
    begin |= {"GPU": torch.cuda.get_device_name()} if gpu else {}
    for resolution in arguments.cases or ([256] if gpu else list(CASES)):
        for precision in arguments.precisions or list(PRECISIONS)[:3 if gpu else 2]:
            programs = [*CHANNELS, ORIGINAL] if arguments.original else list(CHANNELS)
            for program in programs:
                command = [
                    sys.executable,
                    __file__,
                    "--one",
                    program,
                    str(resolution),
                    precision,
                    "--device",
                    arguments.device,
                    "--steps",
                    str(arguments.steps),
                    "--seconds",
                    str(arguments.seconds),
                    *(["--original", str(arguments.original.resolve())] if arguments.original else []),
                ]
                rows.append(
                    json.loads(
                        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
                    )
                )
                print(rows[-1])
            ours, *others = rows[-len(programs):]
            for other in others:
                ratio = {
                    name: round(ours[name]/other[name], 2)
                    for name in ours
                    if name.startswith(("training_images", "generating_images"))
                }
                print({f"medaug / {other['program']}": ratio})
            write_results(Path(__file__).with_stem("gan_training_cuda") if gpu else __file__, {**begin, "rows": rows})


if __name__ == "__main__":
    main()
