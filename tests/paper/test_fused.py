"""SVD's layers in fewer passes over the memory, and what is compiled of which model."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.loading import channels_last
from ouroboros_lib.paper import fused
from ouroboros_lib.paper.fused import FusedGroupNorm, FusedResBlock, FusedUpsample, SingleTokenAttention
from ouroboros_lib.paper.svd import SVDMultiviewUNet
from ouroboros_lib.paper.svd_autoencoder import SVDAutoencoder
from ouroboros_lib.speed.compiling import compile_network

NARROW = {"block_out_channels": (32, 32, 64, 64), "num_attention_heads": (1, 1, 2, 2), "cross_attention_dim": 32}

# triton reads TRITON_INTERPRET when it is imported: a process of its own, in which the kernels run on the CPU
INTERPRETED = """
import torch
from torch import nn
from ouroboros_lib.paper import fused
from ouroboros_lib.paper.group_norm_triton import add_scaled, group_norm
from ouroboros_lib.paper.svd_autoencoder import SVDAutoencoder
from ouroboros_lib.loading import channels_last

torch.manual_seed(0)
torch.set_grad_enabled(False)
near = dict(rtol=1e-4, atol=1e-4)
for shape in ((2, 64, 5, 7), (1, 96, 3, 4, 4), (3, 320, 9, 9)):
    norm, x, bias = nn.GroupNorm(32, shape[1]), 3 * torch.randn(shape) + 5, torch.randn(shape[1])
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    moved = x + bias.view(-1, *[1] * (len(shape) - 2))
    torch.testing.assert_close(group_norm(norm, x), norm(x), **near)
    torch.testing.assert_close(group_norm(norm, x, silu=True, bias=bias), nn.functional.silu(norm(moved)), **near)
    torch.testing.assert_close(add_scaled(x, x.flip(0), bias), x + moved.flip(0), **near)
    torch.testing.assert_close(add_scaled(x, x, bias, torch.tensor([0.3])), x + 0.3 * moved, **near)

autoencoder, latents = SVDAutoencoder(block_out_channels=(32, 32, 64, 64)).eval(), torch.randn(1, 2, 4, 2, 2)
for parameter in autoencoder.parameters():
    parameter += 0.05 * torch.randn_like(parameter)
channels_last(autoencoder)
expected = autoencoder.decode(latents)
used = []
fused.fusible = lambda x: used.append(x.shape) or True
torch.testing.assert_close(autoencoder.decode(latents), expected, **near)
print(len(used))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton does not come with this build of torch")
def test_kernels_and_fused_decoder_agree_with_torch():
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=os.environ | {"TRITON_INTERPRET": "1"},
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    kinds = FusedResBlock, FusedUpsample, FusedGroupNorm
    blocks = sum(isinstance(module, kinds) for module in SVDAutoencoder().vae.decoder.modules())
    assert int(done.stdout.split()[-1]) == blocks == 18


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 80), (torch.bfloat16, 35)])
def test_on_cuda_the_fused_decoder_equals_diffusers_own(monkeypatch, dtype, least):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    autoencoder = SVDAutoencoder(block_out_channels=(64, 64, 128, 128)).eval().to("cuda", dtype)
    channels_last(autoencoder)
    latents = torch.randn(1, 8, 4, 16, 16, device="cuda", dtype=dtype)
    with torch.no_grad():
        fast = autoencoder.decode(latents).float()
        monkeypatch.setattr(fused, "fusible", lambda x: False)
        expected = autoencoder.decode(latents).float()
    assert not torch.equal(fast, expected)  # other kernels ran
    error = (fast - expected).square().mean() / expected.square().mean()
    assert -10 * error.log10() > least


def test_names_and_types_stay_diffusers():
    decoder = SVDAutoencoder(block_out_channels=(32, 32, 32, 32)).vae.decoder
    fused = decoder.up_blocks[0].resnets[0]
    assert isinstance(fused, FusedResBlock) and isinstance(decoder.conv_norm_out, nn.GroupNorm)
    assert "up_blocks.0.resnets.0.temporal_res_block.conv1.weight" in decoder.state_dict()


def test_attention_to_one_token_is_its_value():
    torch.manual_seed(0)
    block = BasicTransformerBlock(64, 2, 32, cross_attention_dim=48)
    x, token = torch.randn(3, 10, 64), torch.randn(3, 1, 48)
    block.attn2.set_processor(AttnProcessor2_0())
    expected = block(x, encoder_hidden_states=token)
    block.attn2.set_processor(SingleTokenAttention())
    with torch.no_grad():
        torch.testing.assert_close(block(x, encoder_hidden_states=token), expected)
        two = torch.randn(3, 2, 48)  # several tokens are attended to as ever
        assert not torch.equal(block(x, encoder_hidden_states=two), block(x, encoder_hidden_states=two[:, :1]))
    block(x, encoder_hidden_states=token).sum().backward()
    of_q, of_v = (layer.weight.grad.abs().max() for layer in (block.attn2.to_q, block.attn2.to_v))
    assert of_q < 1e-5 * of_v


@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_a_transposed_convolution_enlarges_and_convolves(size):
    """Every tap of the kernel counts, and the border has fewer neighbours."""
    torch.manual_seed(0)
    x, layer = torch.randn(2, 3, *size), nn.Conv2d(3, 4, 3, padding=1)
    expected = layer(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    weight = fused.upsampling_kernel(layer.weight)
    assert weight.shape == (3, 4, 4, 4)
    once = nn.functional.conv_transpose2d(x, weight, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(once, expected)


@torch.no_grad()
def test_blocks_of_a_large_model_are_compiled_once_each():
    """Equal blocks share what is compiled; the result does not change."""
    torch.manual_seed(0)
    model = SVDMultiviewUNet(**NARROW).eval()
    rig = evenly_spaced_orbit(2, torch.zeros(1))
    inputs = torch.randn(1, 2, 4, 8, 8), torch.zeros(1), torch.randn(1, 4, 8, 8), rig
    expected, graphs, runs = model(*inputs), [], []

    def backend(graph, _):
        graphs.append(graph)
        return lambda *values: runs.append(graph) or graph(*values)

    compile_network(model, backend=backend, mode="reduce-overhead")
    torch.testing.assert_close(model(*inputs), expected)
    blocks = sum(type(module).__name__ in model._repeated_blocks for module in model.modules())
    assert 0 < len(graphs) < blocks <= len(runs)
    torch._dynamo.reset()


def test_small_models_are_compiled_as_a_whole_and_fused_ones_not_at_all():
    linear = nn.Linear(2, 2)
    compile_network(linear, backend="eager")
    assert "forward" in vars(linear)
    autoencoder = SVDAutoencoder(block_out_channels=(32, 32, 32, 32))
    compile_network(autoencoder, "decode", backend="eager")
    assert "decode" not in vars(autoencoder)
