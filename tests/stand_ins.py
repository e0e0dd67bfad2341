"""Narrow stand-ins of the published weights: a pipeline, its pictures, and the command line's answer."""

import pytest
import torch

from ouroboros_lib.cli import main as cli

NARROW = ("--preset", "narrow")


def run(pipe, steps=2):
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return pipe(picture, elevation=20.0, num_inference_steps=steps, generator=torch.Generator().manual_seed(2))


def same(a, b):
    return (torch.equal(a.views, b.views) and torch.equal(a.gaussians.to_tensor(), b.gaussians.to_tensor())
            and torch.equal(a.renders.rgb, b.renders.rgb) and torch.equal(a.renders.ccm, b.renders.ccm))


def command(capsys, *arguments):
    """Exit code and the lines on stderr."""
    with pytest.raises(SystemExit) as leaving:
        cli.main([str(argument) for argument in arguments])
    return leaving.value.code, capsys.readouterr().err.splitlines()
