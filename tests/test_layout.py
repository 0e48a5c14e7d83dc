"""The probes run in processes of their own: what they guard against ends the process, or damages its memory."""

import re
import subprocess
import sys
from pathlib import Path

import timm
import torch
from torch import nn

import kedge
from kedge import networks
from kedge.layout import as_stored, channels_last

# The gradients of narrow convolutions as kedge lays them out, against those in double precision.
PROBE = """
import copy, torch
from torch import nn
import kedge
from kedge import networks
from kedge.layout import channels_last

torch.set_num_threads(1)
torch.manual_seed(0)
for inputs, outputs in ((8, 16), (4, 4), (4, 16), (3, 8), (15, 16), (12, 24), (3, 64), (6, 32), (16, 32)):
    layer = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
    exact = copy.deepcopy(layer).double()
    channels_last(layer, always=True)
    images = torch.randn(2, inputs, 56, 56)
    outputs = layer(images.contiguous(memory_format=torch.channels_last))
    outputs.square().sum().backward()
    exact(images.double()).square().sum().backward()
    error = (layer.weight.grad - exact.weight.grad).abs().max() / exact.weight.grad.abs().max()
    assert error < 1e-4, (layer, float(error))

network = networks.create("kedge_resnet_small", 4, arguments={"width": 8})
model = channels_last(kedge.anchor(network, example=(3, 64, 64)))
model.train()(torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)).square().sum().backward()
print("right")
"""


def test_narrow_layers_with_a_stride_are_trained_rightly():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "right"), done.stderr[-2000:]


def narrow():
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 1, stride=2), nn.Conv2d(16, 32, 1, 2)]
    return nn.Sequential(*layers)


def test_only_the_narrow_ones_keep_the_usual_layout():
    network = channels_last(channels_last(narrow()))
    assert [network[i].weight.stride() for i in (2, 3)] == [(8, 1, 1, 1), (16, 1, 16, 16)]
    assert [len(layer._forward_pre_hooks) for layer in network] == [0, 0, 1, 0]
    images = torch.rand(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)
    assert network[1](network[0](images)).is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(network.eval()(images), as_stored(network)(images.contiguous()), atol=1e-5)
    assert not any(layer._forward_pre_hooks for layer in network)
    assert network[0].weight.stride() == (27, 9, 3, 1)


def test_convolutions_with_batch_normalisation_are_laid_out_channels_last():
    for name, moved in (("test_resnet", True), ("test_convnext", False), ("test_vit", False)):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=3).eval()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        images = torch.rand(2, 3, *network.pretrained_cfg["input_size"][1:])
        expected = network(images)
        assert channels_last(network) is network
        kernels = [p for p in network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
        assert all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels) is moved
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
        assert torch.allclose(network(images), expected, atol=1e-5)


def test_a_trained_model_is_handed_over_as_it_was_made(tmp_path):
    network = networks.create("kedge_resnet_small", 4, 3, 16, arguments={"width": 4})
    model = channels_last(kedge.anchor(network, example=(3, 16, 16))).eval()
    images = torch.rand(2, 3, 16, 16)
    kedge.save(model, tmp_path)
    assert torch.allclose(kedge.load(tmp_path)(images), model(images), atol=1e-5)
    assert torch.allclose(model.fold()(images), model(images), atol=1e-4)


def test_one_place_lays_networks_out():
    source = Path(kedge.__file__).parent
    turned = re.compile(r"\.to\([^)]*channels_last")
    assert [path.name for path in source.rglob("*.py") if turned.search(path.read_text())] == ["layout.py"]
