"""First and second derivatives in float64 of layers and regularisers; a condition of weight zero changes nothing."""
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from medaug.gan.layers import EqualisedConv, EqualisedLinear, minibatch_standard_deviation, modulated_conv, resample
from medaug.gan.losses import path_length_penalty, r1_penalty
from medaug.gan.networks import Discriminator, Generator
from medaug.gan.transfer import transfer

SMALL = dict(channel_base=16, channel_max=3)


def _random(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def _layer(layer, *shape):
    """A layer as a function of its input and its weights, and such arguments."""
    names, weights = zip(*layer.double().named_parameters())
    return lambda x, *values: functional_call(layer, dict(zip(names, values)), (x,)), (_random(*shape), *weights)


def _layers():
    torch.manual_seed(0)
    filters = {"filter": {}, "padded": dict(padding=(2, 1)), "up": dict(up=2, padding=(2, 1), gain=4.0),
               "down": dict(down=2, padding=(1, 1))}
    for name, how in filters.items():
        yield f"resampling, {name}", lambda x, how=how: resample(x, **how), (_random(1, 2, 4, 4),)
    for demodulate in (True, False):
        for up in (False, True):
            function = lambda x, w, s, how=(demodulate, up): modulated_conv(x, w, s, *how)
            arguments = _random(2, 2, 4, 4), _random(3, 2, 3, 3), _random(2, 2)
            yield f"modulated convolution, {demodulate}, {up}", function, arguments
    for size, down in ((1, False), (3, False), (1, True), (3, True)):
        yield f"convolution {size}, {down}", *_layer(EqualisedConv(2, 3, size, down=down, cond_channels=1), 1, 3, 4, 4)
    yield "linear", *_layer(EqualisedLinear(3, 2, activate=True, rate=0.01), 2, 3)
    yield "standard deviation", lambda x: minibatch_standard_deviation(x, 2), (_random(4, 2, 2, 2),)


LAYERS = list(_layers())


@pytest.mark.parametrize("function, arguments", [case[1:] for case in LAYERS], ids=[case[0] for case in LAYERS])
def test_layers(function, arguments):
    assert gradcheck(function, arguments)
    assert gradgradcheck(function, arguments)


def _penalty_check(penalty, network):
    """Both derivatives of a penalty, itself made of derivatives, by all weights of a network at once.

    Biases are left out: after the last leaky ReLU they have no part in a derivative of the network, which gradgradcheck
    takes for a mistake.
    """
    parameters = {name: weight for name, weight in network.named_parameters() if not name.endswith("bias")}
    names, weights = zip(*parameters.items())
    function = lambda *values: penalty(dict(zip(names, values)))
    assert function(*weights).item() > 0
    assert gradcheck(function, weights, fast_mode=True)
    assert gradgradcheck(function, weights, fast_mode=True)


@pytest.mark.parametrize("cond_channels", [0, 2])
def test_r1_by_every_weight(cond_channels):
    torch.manual_seed(1)
    D = Discriminator(8, 1, cond_channels, **SMALL).double()
    images = _random(4, 1, 8, 8)
    cond = torch.randn(4, cond_channels, 8, 8, dtype=torch.float64) if cond_channels else None
    _penalty_check(lambda weights: r1_penalty(functional_call(D, weights, (images, cond)), images).mean(), D)


@pytest.mark.parametrize("cond_channels", [0, 2])
def test_path_length_by_every_weight(cond_channels):
    torch.manual_seed(2)
    G = Generator(8, 1, cond_channels, z_dim=4, w_dim=4, mapping_layers=1, **SMALL).double().synthesis
    for layer in (layer for block in G.blocks for layer in block.layers):
        torch.nn.init.constant_(layer.noise_strength, 0.3)
    ws, noise = _random(2, 4, 4), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    cond = torch.randn(2, cond_channels, 8, 8, dtype=torch.float64) if cond_channels else None

    def penalty(weights):
        return path_length_penalty(functional_call(G, weights, (ws, cond, "const")), ws, noise, 0.1)[0].mean()

    _penalty_check(penalty, G)


@pytest.mark.parametrize("masks", [1, 4])
def test_with_mask_weights_at_zero_the_conditional_networks_are_the_plain_ones(masks):
    torch.manual_seed(3)
    sizes = dict(channel_base=256, channel_max=24)
    plain, conditional = ([Generator(32, 2, c, 16, 16, 2, **sizes).double(),
                           Discriminator(32, 2, c, **sizes).double()] for c in (0, masks))
    for source, target in zip(plain, conditional):
        assert transfer(source, target) == []
    z, x = torch.randn(4, 16).double(), torch.randn(4, 2, 32, 32).double()
    cond = torch.randn(4, masks, 32, 32).double().sign()
    with torch.no_grad():
        made, expected = conditional[0](z, cond, noise="const"), plain[0](z, noise="const")
        torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(conditional[1](x, cond), plain[1](x), rtol=1e-12, atol=1e-12)
