"""Narrow stand-ins of the published weights: their files, a pipeline's pictures, and the command line's answer."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from safetensors.torch import save_file
from transformers import CLIPImageProcessor

from ouroboros_lib.cli import main as cli

NARROW = ("--preset", "narrow")


def write_stand_ins(pipeline, folder):
    """Write below `folder` the weights of a pipeline with the paper's models under the names of the published files.

    svd/: Stable Video Diffusion in diffusers' layout. lgm.safetensors: LGM's, without the layers for the noise level.
    released/ckpt/mv_model_unet.pth and recon_model.pth: the released checkpoint's two state dicts.
    """
    svd, checkpoint = folder / "svd", folder / "released" / "ckpt"
    pipeline.multiview.unet.save_pretrained(svd / "unet")
    pipeline.autoencoder.vae.save_pretrained(svd / "vae")
    pipeline.image_encoder.save_pretrained(svd / "image_encoder")
    levels = pipeline.scheduler.config
    EulerDiscreteScheduler(sigma_min=levels.sigma_min, sigma_max=levels.sigma_max, prediction_type="v_prediction",
                           use_karras_sigmas=True, timestep_type="continuous").save_pretrained(svd / "scheduler")
    side = pipeline.image_encoder.config.image_size
    CLIPImageProcessor(crop_size=side, size={"shortest_edge": side}).save_pretrained(svd / "feature_extractor")
    save_file({name: value.contiguous() for name, value in pipeline.reconstructor.state_dict().items()
               if "time_embed" not in name and "emb_layers" not in name}, folder / "lgm.safetensors")
    checkpoint.mkdir(parents=True, exist_ok=True)
    torch.save(pipeline.multiview.state_dict(), checkpoint / "mv_model_unet.pth")
    torch.save(pipeline.reconstructor.state_dict(), checkpoint / "recon_model.pth")


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
