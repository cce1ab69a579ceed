"""Foreign networks: ours compute what stylegan2-ada-pytorch computes, and a hostile file does no harm."""
import collections
import math
import pickle
import struct
import subprocess
import sys
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medaug.errors import UserError
from medaug.gan.pretrained import load_stylegan2_ada

TINY = Path(__file__).parent/"data"/"stylegan2-ada-tiny.pkl"


# --- files as that code writes them

class Foreign:
    """An object that pickles as a module of that code does: by name of a function that isn't installed here."""

    def __init__(self, kind, parameters=(), buffers=(), parts=(), source="", **settings):
        self.__dict__.update(settings)
        self._parameters, self._buffers, self._modules = dict(parameters), dict(buffers), dict(parts)
        self._forward_hooks, self._non_persistent_buffers_set = collections.OrderedDict(), set()
        self._meta = kind, source

    def __reduce__(self):
        kind, source = self._meta
        state = {name: value for name, value in vars(self).items() if name != "_meta"}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (
            {"type": "class", "version": 6, "module_src": source, "class_name": kind, "state": state},)

    def __getitem__(self, name):
        return next(held[name] for held in (self._modules, self._parameters, self._buffers) if name in held)


def _never(*_):
    raise AssertionError("a file's own code was run")


@pytest.fixture(autouse=True)
def foreign_modules(monkeypatch):
    """The modules that such files name, for writing them."""
    for name, entry in (("torch_utils.persistence", "_reconstruct_persistent_obj"), ("dnnlib.util", "EasyDict")):
        module = types.ModuleType(name)
        held = type("EasyDict", (dict,), {"__module__": name}) if entry == "EasyDict" else _never
        if held is _never:
            held = types.FunctionType(_never.__code__, _never.__globals__, entry)
            held.__module__, held.__qualname__ = name, entry
        setattr(module, entry, held)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, name.split(".")[0], types.ModuleType(name.split(".")[0]))


@pytest.fixture
def imported(tmp_path):
    """Everything that a reading imports: torch imports parts of itself at the first network."""
    path = tmp_path/"whole.pkl"
    path.write_bytes(_changed(lambda content: None))
    load_stylegan2_ada(path)


def _normal(*shape):
    return torch.nn.Parameter(torch.randn(shape)*0.7)


def _taps(filter):
    taps = torch.tensor(filter, dtype=torch.float32)
    return torch.outer(taps, taps)/taps.sum()**2


def _linear(n, m, activation="linear", rate=1.0):
    weights = {"weight": _normal(m, n), "bias": _normal(m)}
    return Foreign("FullyConnectedLayer", weights, activation=activation, weight_gain=rate/np.sqrt(n), bias_gain=rate)


def _conv(n, m, size, activation="lrelu", down=1, bias=True, clamp=None, filter=(1, 3, 3, 1), trainable=True):
    weights = {"weight": _normal(m, n, size, size), **({"bias": _normal(m)} if bias else {})}
    taps, none = {"resample_filter": _taps(filter)}, {} if bias else {"bias": None}
    held = (weights, taps) if trainable else ((), {**{name: value.detach() for name, value in weights.items()}, **taps})
    return Foreign("Conv2dLayer", *held, activation=activation, up=1, down=down, conv_clamp=clamp, padding=size // 2,
                   weight_gain=1/np.sqrt(n*size**2),
                   act_gain=np.sqrt(2) if activation == "lrelu" else 1, **none)


def _layer(n, m, w, resolution, up=1, clamp=None, filter=(1, 3, 3, 1), use_noise=True, activation="lrelu"):
    weights, buffers = {"weight": _normal(m, n, 3, 3), "bias": _normal(m)}, {"resample_filter": _taps(filter)}
    if use_noise:
        weights["noise_strength"], buffers["noise_const"] = _normal(), torch.randn(resolution, resolution)
    return Foreign("SynthesisLayer", weights, buffers, {"affine": _linear(w, n)}, up=up, use_noise=use_noise,
                   activation=activation, conv_clamp=clamp,
                   act_gain=np.sqrt(2))


def _generator(resolution=16, images=3, z=8, w=12, depth=2, rate=0.01, width=lambda r: min(128//r, 16),
               architecture="skip", clamp=None, c_dim=0,
               source="", widest=None, **layer):
    blocks = {}
    for r in (2**k for k in range(2, int(math.log2(resolution)) + 1)):
        n, m, last = width(r // 2), width(r), r == resolution
        convs = {"conv1": _layer(m, m, w, r, clamp=clamp, **layer)}
        if r > 4:
            convs["conv0"] = _layer(n, m, w, r, 2, clamp, **layer)
        if last or architecture == "skip":
            convs["torgb"] = Foreign("ToRGBLayer", {"weight": _normal(images, m, 1, 1), "bias": _normal(images)}, (),
                                     {"affine": _linear(w, m)},
                                     conv_clamp=clamp, weight_gain=1/np.sqrt(m))
        filter = {"resample_filter": _taps(layer.get("filter", (1, 3, 3, 1)))}
        blocks[f"b{r}"] = Foreign("SynthesisBlock", {} if r > 4 else {"const": _normal(m, 4, 4)}, filter,
                                  convs, architecture=architecture, use_fp16=r >= 16)
    widths = [z, *[widest or w]*(depth - 1), w]
    layers = {f"fc{i}": _linear(a, b, "lrelu", rate) for i, (a, b) in enumerate(zip(widths, widths[1:]))}
    mapping = Foreign("MappingNetwork", (), {"w_avg": torch.randn(w)}, layers)
    synthesis = Foreign("SynthesisNetwork", (), (), blocks)
    return Foreign("Generator", (), (), {"synthesis": synthesis, "mapping": mapping}, source, z_dim=z, c_dim=c_dim)


def _discriminator(resolution=16, images=3, width=lambda r: min(128//r, 16), architecture="resnet", clamp=None,
                   group=4, channels=1, trainable=True, filter=(1, 3, 3, 1)):
    blocks, r, how = {}, resolution, dict(trainable=trainable)
    while r > 4:
        n, m = width(r), width(r // 2)
        convs = {"conv0": _conv(n, n, 3, clamp=clamp, **how),
                 "conv1": _conv(n, m, 3, down=2, clamp=clamp, filter=filter, **how)}
        if architecture == "resnet":
            convs["skip"] = _conv(n, m, 1, "linear", 2, bias=False, filter=filter, **how)
        if r == resolution or architecture == "skip":
            convs["fromrgb"] = _conv(images, n, 1, clamp=clamp, **how)
        blocks[f"b{r}"], r = Foreign("DiscriminatorBlock", (), (), convs, architecture=architecture), r // 2
    n = width(4)
    deviation = {"mbstd": Foreign("MinibatchStdLayer", group_size=group, num_channels=channels)} if channels else {}
    epilogue = {**deviation, "conv": _conv(n + channels, n, 3, clamp=clamp), "fc": _linear(16*n, n, "lrelu"),
                "out": _linear(n, 1)}
    last = Foreign("DiscriminatorEpilogue", (), (), epilogue, architecture=architecture)
    return Foreign("Discriminator", (), (), {**blocks, "b4": last}, c_dim=0)


def _file(path, G, D, protocol=4):
    arguments = sys.modules["dnnlib.util"].EasyDict(path="x", resolution=16)
    content = {"G": G, "D": D, "G_ema": G, "augment_pipe": None, "training_set_kwargs": arguments}
    path.write_bytes(pickle.dumps(content, protocol))
    return path


# --- what they compute, from the paper's equations, slowly, in float64

def _act(x, activation, gain=1.0, clamp=None):
    x = (F.leaky_relu(x, 0.2)*math.sqrt(2) if activation == "lrelu" else x)*gain
    return x if clamp is None else x.clamp(-clamp*gain, clamp*gain)


def _fc(layer, x):
    weight, bias = layer["weight"].double()*layer.weight_gain, layer["bias"].double()*layer.bias_gain
    return _act(x @ weight.t() + bias, layer.activation)


def _filtered(x, pad, gain=1.0):
    taps = _taps((1, 3, 3, 1)).double().expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, pad), taps*gain, groups=x.shape[1])


def _spread(x):
    spread = x.new_zeros(*x.shape[:2], 2*x.shape[2], 2*x.shape[3])
    spread[:, :, ::2, ::2] = x
    return spread


def _modulated(layer, x, w, demodulate=True, up=1):
    style = _fc(layer["affine"], w)*(1 if demodulate else layer.weight_gain)
    made = []
    for sample, s in zip(x, style):
        weight = layer["weight"].double()*s[None, :, None, None]
        weight = weight/(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt() if demodulate else weight
        if up == 2:                                                        # a transposed convolution, by its definition
            full = F.conv2d(F.pad(_spread(sample[None]), (2, 1, 2, 1)), weight.flip(2, 3))
            made.append(_filtered(full, (1, 1, 1, 1), 4))
        else:
            made.append(F.conv2d(sample[None], weight, padding=weight.shape[-1]//2))
    return torch.cat(made)


def _images(G, z, psi=1.0, noise=True):
    x, mapping, synthesis = z.double(), G["mapping"], G["synthesis"]
    x = x/(x.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for i in range(len(mapping._modules)):
        x = _fc(mapping[f"fc{i}"], x)
    w = mapping["w_avg"].double()*(1 - psi) + x*psi
    x = image = None
    for block in synthesis._modules.values():
        x = block["const"].double().expand(len(z), -1, -1, -1) if x is None else x
        for name in ("conv0", "conv1"):
            if name in block._modules:
                layer = block[name]
                x = _modulated(layer, x, w, up=layer.up)
                if noise and layer.use_noise:
                    x = x + layer["noise_const"].double()*layer["noise_strength"].double()
                x = _act(x + layer["bias"].double()[:, None, None], "lrelu", clamp=layer.conv_clamp)
        image = None if image is None else _filtered(_spread(image), (2, 1, 2, 1), 4)
        if "torgb" in block._modules:
            layer = block["torgb"]
            made = _modulated(layer, x, w, demodulate=False) + layer["bias"].double()[:, None, None]
            made = _act(made, "linear", clamp=layer.conv_clamp)
            image = made if image is None else image + made
    return image


def _convolved(layer, x, gain=1.0):
    weight = layer["weight"].double()*layer.weight_gain
    extra = weight.shape[-1]//2
    if layer.down == 2:
        x = F.conv2d(_filtered(x, [1 + extra]*4), weight, stride=2)
    else:
        x = F.conv2d(x, weight, padding=extra)
    bias = layer["bias"] if "bias" in {**layer._parameters, **layer._buffers} else None
    return _act(x if bias is None else x + bias.double()[:, None, None], layer.activation, gain, layer.conv_clamp)


def _logits(D, x):
    x = x.double()
    for block in list(D._modules.values())[:-1]:
        x = _convolved(block["fromrgb"], x) if "fromrgb" in block._modules else x
        skip = _convolved(block["skip"], x, math.sqrt(0.5)) if "skip" in block._modules else None
        x = _convolved(block["conv1"], _convolved(block["conv0"], x), 1.0 if skip is None else math.sqrt(0.5))
        x = x if skip is None else x + skip
    epilogue = D["b4"]
    n, group = len(x), min(epilogue["mbstd"].group_size or len(x), len(x))
    groups = [torch.arange(first, n, n//group) for first in range(n//group)]
    deviation = torch.zeros(n, 1, 4, 4, dtype=torch.float64)
    for members in groups:
        deviation[members] = (x[members].var(0, unbiased=False) + 1e-8).sqrt().mean()
    x = _convolved(epilogue["conv"], torch.cat([x, deviation], 1))
    return _fc(epilogue["out"], _fc(epilogue["fc"], x.flatten(1)))


def _agree(ours, theirs, tolerance=1e-4):
    assert (ours.double() - theirs).abs().max() <= tolerance*theirs.abs().max()


def test_the_reference_file_gives_the_reference_outputs():
    read, expected = load_stylegan2_ada(TINY), np.load(TINY.with_suffix(".npz"))
    z = torch.from_numpy(expected["z"])
    with torch.inference_mode():
        G, D = read.generator, read.discriminator
        made = {"w": G.broadcast(G.mapping(z)), "img_const": G(z, noise="const"),
                "img_const_psi07": G(z, psi=0.7, noise="const"), "img_none": G(z, noise="none"),
                "d_of_img_const": D(torch.from_numpy(expected["img_const"]))}
    for name, value in made.items():
        _agree(value, torch.from_numpy(expected[name]).double())


GENERATORS = {
    "as they come": {}, "one channel, 8 x 8": dict(images=1, resolution=8),
    "five channels, 64 x 64": dict(images=5, resolution=64),
    "narrow": dict(width=lambda r: min(100//r, 7)), "wide": dict(width=lambda r: min(1024//r, 32), resolution=32),
    "deep mapping": dict(depth=8, z=20, w=10),
    "one mapping layer, fast": dict(depth=1, rate=1.0), "reached clamp": dict(clamp=0.8),
    "usual clamp": dict(clamp=256), "no noise": dict(use_noise=False),
    "image at the end": dict(architecture="orig"),
}
DISCRIMINATORS = {
    "as they come": {}, "one channel, 8 x 8": dict(images=1, resolution=8),
    "five channels, 64 x 64": dict(images=5, resolution=64),
    "other widths": dict(width=lambda r: min(512//r, 24), resolution=32), "reached clamp": dict(clamp=0.3),
    "group of 2": dict(group=2), "group of all": dict(group=None),
    "group of 8": dict(group=8), "no skips": dict(architecture="orig"),
    "no skips, clamped": dict(architecture="orig", clamp=0.4), "frozen": dict(trainable=False),
}


@pytest.mark.parametrize("how", GENERATORS)
def test_generators_of_all_sizes_compute_the_same(tmp_path, how):
    torch.manual_seed(1)
    G = _generator(**GENERATORS[how])
    ours = load_stylegan2_ada(_file(tmp_path/"network.pkl", G, _discriminator())).generator
    z = torch.randn(3, ours.z_dim)
    with torch.no_grad():
        for psi, noise in ((1.0, "const"), (0.7, "none")):
            theirs = _images(G, z, psi, noise == "const")
            _agree(ours(z, psi=psi, noise=noise), theirs)
    if "clamp" in how:
        unlimited = ours.synthesis.blocks[1].layers[0]
        unlimited.clamp = None
        limited = load_stylegan2_ada(tmp_path/"network.pkl").generator
        reached = not torch.equal(ours(z, psi=0.7, noise="none"), limited(z, psi=0.7, noise="none"))
        assert reached == (how == "reached clamp")


@pytest.mark.parametrize("how", DISCRIMINATORS)
def test_discriminators_of_all_sizes_compute_the_same(tmp_path, how):
    torch.manual_seed(2)
    D = _discriminator(**DISCRIMINATORS[how])
    ours = load_stylegan2_ada(_file(tmp_path/"network.pkl", _generator(), D)).discriminator
    x = torch.randn(8, ours.img_channels, ours.resolution, ours.resolution)
    with torch.no_grad():
        _agree(ours(x), _logits(D, x))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_reads_the_same(tmp_path, protocol):
    torch.manual_seed(3)
    G, D = _generator(), _discriminator()
    ours = load_stylegan2_ada(_file(tmp_path/"network.pkl", G, D, protocol))
    z = torch.randn(2, 8)
    with torch.no_grad():
        _agree(ours.generator(z, noise="const"), _images(G, z))


def test_what_was_read_can_be_trained(tmp_path):
    torch.manual_seed(4)
    path = _file(tmp_path/"network.pkl", _generator(use_noise=False), _discriminator(trainable=False))
    ours = load_stylegan2_ada(path)
    ours.discriminator(ours.generator(torch.randn(4, 8))).mean().backward()
    for network in (ours.generator, ours.discriminator):
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_source_text_in_a_file_is_not_run(tmp_path):
    canary = tmp_path/"canary"
    source = f"open({str(canary)!r}, 'w').close()"
    load_stylegan2_ada(_file(tmp_path/"network.pkl", _generator(source=source), _discriminator()))
    assert not canary.exists()


UNKNOWN = {
    "classes": ("conditioned on classes", dict(c_dim=3), {}),
    "residual generator": ("architecture 'resnet'", dict(architecture="resnet"), {}),
    "skip discriminator": ("architecture 'skip'", {}, dict(architecture="skip")),
    "another filter": ("another filter", dict(filter=(1, 2, 2, 1)), {}),
    "a longer filter": ("another filter", {}, dict(filter=(1, 2, 4, 4, 2, 1))),
    "another activation": ("activation = 'relu'", dict(activation="relu"), {}),
    "two channels of deviation": ("num_channels = 2", {}, dict(channels=2)),
    "no deviation": ("no minibatch standard deviation", {}, dict(channels=0)),
    "growing widths": ("do not halve", dict(width=lambda r: 2*r), {}),
    "wider mapping": ("fc0.weight of shape|fc1.weight of shape", dict(widest=20, depth=3), {}),
    "4 x 4": ("4 × 4", dict(resolution=4), {}),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_networks_that_ours_cannot_express_are_refused_in_one_line(tmp_path, what):
    message, generator, discriminator = UNKNOWN[what]
    with pytest.raises(UserError, match=message) as refused:
        load_stylegan2_ada(_file(tmp_path/"network.pkl", _generator(**generator), _discriminator(**discriminator)))
    assert "\n" not in str(refused.value)


# --- hostile files

class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _named(module, name, argument):
    """A pickle that calls `module.name(argument)`, of modules that need not be there."""
    return b"\x80\x04" + f"c{module}\n{name}\n".encode() + pickle.dumps(argument, 4)[2:-1] + b"\x85R."


def _storage(claimed=4, data=b"\0"*16, reference=None, kind="FloatStorage"):
    magic = b"".join(pickle.dumps(value, 2) for value in (0x1950a86a20f9469cfc6c, 1001, {"little_endian": True}))
    begin, key = b"\x80\x02(X\x07\x00\x00\x00storagectorch\n", b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu\x8a\x08"
    reference = reference or begin + kind.encode() + key + struct.pack("<q", claimed) + b"NtQ."
    return magic + reference + pickle.dumps(["0"], 2) + struct.pack("<q", claimed) + data


def _claiming(kind, count=1, data=b""):
    """A storage whose type and length are plain values in place of a reference to one of PyTorch's storages."""
    magic = b"".join(pickle.dumps(value, 2) for value in (0x1950a86a20f9469cfc6c, 1001, {"little_endian": True}))
    return magic + pickle.dumps((kind, "0", count), 2) + pickle.dumps(["0"], 2) + struct.pack("<q", count) + data


def _tensor(storage, size, stride, offset=0):
    """A pickle of a tensor by hand, for claims that torch wouldn't make."""
    frame = b"\x95" + struct.pack("<Q", len(pickle.dumps(storage, 4)) - 11)
    return (b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n(ctorch.storage\n_load_from_bytes\n"
            + pickle.dumps(storage, 4)[2:-1].replace(frame, b"")
            + b"\x85R" + b"".join(pickle.dumps(value, 2)[2:-1] for value in (offset, size, stride, False)) + b")tR.")


def _changed(change):
    """The reference file with one thing changed in its content, read and written with plain stand-ins."""
    G, D = _generator(), _discriminator()
    content = {"G": G, "D": D, "G_ema": G}
    change(content)
    return pickle.dumps(content, 4)


def _setting(path, **values):
    def change(content):
        module = content
        for name in path.split("/"):
            module = module[name]
        for name, value in values.items():
            dictionaries = (module._parameters, module._buffers, module._modules)
            held = next((held for held in dictionaries if name in held), module.__dict__)
            held[name] = value
    return lambda: _changed(change)


def _cyclic():
    def change(content):
        content["G_ema"]["synthesis"]._modules["b8"]._modules["conv0"] = content["G_ema"]["synthesis"]
    return _changed(change)


def _many_layers():
    def change(content):
        shared = _linear(64, 64, "lrelu")
        content["G_ema"] = _generator(w=64, depth=1)
        content["G_ema"]["mapping"]._modules.update({f"fc{i}": shared for i in range(1, 200)})
    return _changed(change)


def _touch(canary):
    return f"touch {canary}"


def _opening(function, canary):
    return Call(function, f"open({str(canary)!r}, 'w')")


# each gives the bytes of a file, from the path of a canary that it tries to touch
HOSTILE = {
    "os.system": lambda canary: pickle.dumps({"G_ema": Call(__import__("os").system, _touch(canary))}),
    "eval": lambda canary: pickle.dumps(_opening(eval, canary)),
    "exec in a module's state": lambda canary: _setting("G_ema/mapping", z_dim=_opening(exec, canary))(),
    "exec in place of a weight": lambda canary: _setting("G_ema/mapping/fc0", weight=_opening(exec, canary))(),
    "subprocess": lambda canary: _named("subprocess", "check_output", ["touch", str(canary)]),
    "getattr chain": lambda canary: pickle.dumps(Call(getattr, Call(__import__, "os"), "system")),
    "reduce within reduce": lambda canary: pickle.dumps(Call(collections.OrderedDict, [_opening(eval, canary)])),
    "open": lambda canary: pickle.dumps(Call(open, str(canary), "w")),
    "partial": lambda canary: pickle.dumps(Call(__import__("functools").partial, eval, f"open({str(canary)!r}, 'w')")),
    "attrgetter": lambda canary: pickle.dumps(Call(__import__("operator").attrgetter, "__class__")),
    "torch.load": lambda canary: _named("torch", "load", str(canary)),
    "torch.hub": lambda canary: _named("torch.hub", "load", "x"),
    "numpy.load": lambda canary: _named("numpy", "load", str(canary)),
    "a name with dots": lambda canary: b"\x80\x04\x8c\x0btorch._utils\x8c\x11os.system.__call__\x93" + b").",
    "hostile storage": lambda canary: _tensor(pickle.dumps(_opening(eval, canary), 2), (4,), (1,)),
    "hostile reference in a storage":
        lambda canary: _tensor(_storage(reference=pickle.dumps(_opening(eval, canary), 2)), (4,), (1,)),
    "storage of objects": lambda canary: _tensor(_storage(kind="_utils"), (4,), (1,)),
    "storage of void": lambda canary: _tensor(_claiming("V1900000000", 0), (2,), (0,)),
    "storage of void, one number": lambda canary: _tensor(_claiming("V1900000000"), (1,), (1,)),
    "storage of Python objects": lambda canary: _tensor(_claiming("O", data=b"\0"*8), (1,), (1,)),
    "storage of items without size": lambda canary: _tensor(_claiming("V0"), (1,), (1,)),
    "storage of dates": lambda canary: _tensor(_claiming("M8[s]", data=b"\0"*8), (1,), (1,)),
    "storage of text": lambda canary: _tensor(_claiming("U1000000"), (1,), (1,)),
    "two million sets": lambda canary: b"\x80\x04" + b"\x8f"*2_000_000 + b".",
    "two million sets, forgotten": lambda canary: b"\x80\x04" + b"\x8f0"*1_000_000 + b".",
    "two million marks": lambda canary: b"\x80\x04" + b"("*2_000_000 + b".",
    "two million dictionaries": lambda canary: b"\x80\x04(" + b"}"*2_000_000 + b"l.",
    "two million memories": lambda canary: b"\x80\x04]" + b"\x94"*2_000_000 + b".",
    "two million sets in a storage": lambda canary: _tensor(b"\x80\x02" + b"\x8f"*2_000_000 + b".", (4,), (1,)),
    "storage in a zip": lambda canary: _tensor(b"PK\x03\x04" + b"\0"*100, (4,), (1,)),
    "huge tensor": lambda canary: _tensor(_storage(), (10**12,), (0,)),
    "huge tensor by strides": lambda canary: _tensor(_storage(), (2, 2), (2**40, 1)),
    "huge storage": lambda canary: _tensor(_storage(claimed=2**40), (2**40,), (1,)),
    "huge negative offset": lambda canary: _tensor(_storage(), (4,), (1,), -2**31),
    "huge text": lambda canary: b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "huge bytes": lambda canary: b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "the same text over and over": lambda canary: (b"\x80\x04X" + struct.pack("<I", 10**6) + b"a"*10**6 + b"\x940"
                                                   + b"c_codecs\nencode\nh\x00\x8c\x06latin1\x86R"*1000 + b"."),
    "one tensor in many layers": lambda canary: _many_layers(),
    "copyreg extension": lambda canary: b"\x80\x02\x82\x01)R.",
    "INST": lambda canary: b"(X" + struct.pack("<I", len(_touch(canary))) + _touch(canary).encode() + b"ios\nsystem\n.",
    "OBJ": lambda canary: b"(cos\nsystem\nX" + struct.pack("<I", len(_touch(canary))) + _touch(canary).encode() + b"o.",
    "NEWOBJ_EX": lambda canary: b"\x80\x04cdnnlib.util\nEasyDict\n)}\x92.",
    "BUILD on a known name": lambda canary: b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
    "BUILD on a list": lambda canary: b"\x80\x02]}X\x09\x00\x00\x00__class__K\x01sb.",
    "persistent id": lambda canary: b"Pstorage\n.",
    "binary persistent id": lambda canary: b"\x80\x02)Q.",
    "out-of-band buffer": lambda canary: b"\x80\x05\x97.",
    "nested tuples": lambda canary: b"\x80\x04)" + b"\x85"*50_000 + b".",
    "nested marks": lambda canary: b"\x80\x04" + b"("*50_000 + b".",
    "nested key": lambda canary: b"\x80\x04})" + b"\x85"*50_000 + b"K\x01s.",
    "a module in itself": lambda canary: _cyclic(),
    "array of objects": lambda canary: pickle.dumps({"G_ema": np.array([Call(eval, "1")], dtype=object)}),
    "truncated": lambda canary: TINY.read_bytes()[:100_000],
    "empty": lambda canary: b"",
    "text": lambda canary: b"<html>404 Not Found</html>\n",
    "a checkpoint of torch": lambda canary: b"PK\x03\x04 archive/data.pkl",
    "stack underflow": lambda canary: b"\x80\x04000R.",
    "memory that was never filled": lambda canary: b"\x80\x04h\x07.",
    "a million digits": lambda canary: b"I" + b"9"*10**6 + b"\n.",
    "no dictionary": lambda canary: pickle.dumps([1, 2]),
    "missing key": lambda canary: _changed(lambda content: content.pop("D")),
    "text for a network": lambda canary: _changed(lambda content: content.update(G_ema="os.system")),
    "missing layer": lambda canary: _changed(lambda content: content["G_ema"]["synthesis"]["b8"]._modules.pop("conv1")),
    "missing weight": lambda canary: _changed(lambda content: content["D"]["b4"]["out"]._parameters.pop("bias")),
    "missing gain":
        lambda canary: _changed(lambda content: content["G_ema"]["mapping"]["fc0"].__dict__.pop("weight_gain")),
    "text for a weight": _setting("G_ema/mapping/fc1", weight="heavy"),
    "text for a gain": _setting("D/b4/out", weight_gain="big"),
    "infinite gain": _setting("D/b4/out", weight_gain=float("inf")),
    "list for a group": _setting("D/b4/mbstd", group_size=[4]),
    "wrong shape": _setting("D/b4/out", weight=torch.zeros(1, 3)),
    "empty weight": _setting("G_ema/mapping/fc0", weight=torch.zeros(0, 8)),
    "text for parts": _setting("G_ema", _modules="b4"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_and_damaged_files_are_refused_in_one_line_and_none_runs(imported, tmp_path, what):
    canary, path, make = tmp_path/"canary", tmp_path/"network.pkl", HOSTILE[what]
    content = make() if make.__code__.co_argcount == 0 else make(canary)
    path.write_bytes(content)
    modules = set(sys.modules)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as refused:
            load_stylegan2_ada(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6 + 10*len(content)
    finally:
        tracemalloc.stop()
    assert not canary.exists() and set(sys.modules) == modules
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400 and str(path) in str(refused.value)


def test_the_hostile_pickles_would_run_in_pickle_itself(tmp_path):
    """Or the canary would prove nothing."""
    for what in ("os.system", "eval", "reduce within reduce", "open", "subprocess"):
        canary = tmp_path/what
        try:
            pickle.loads(HOSTILE[what](canary))
        except Exception:
            pass
        assert canary.exists(), what


def test_training_does_not_import_the_pickle_reader():
    """Only a training that starts from a foreign pickle needs the reader."""
    code = "import sys, medaug.gan.training; print(*sorted(name for name in sys.modules if name.startswith('medaug.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "medaug.gan.transfer" in loaded
    assert not {"medaug.gan.pickles", "medaug.gan.pretrained"} & set(loaded)
