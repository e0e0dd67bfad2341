"""Files like the published ones, with a pipeline's own weights: to try conversion where those cannot be fetched."""

from pathlib import Path

import torch

from ..pipeline import Ouroboros3DPipeline


def write_stand_ins(pipeline: Ouroboros3DPipeline, folder: str | Path) -> None:
    """Write below `folder` the weights of a pipeline with the paper's models under the names of the published files.

    svd/: Stable Video Diffusion in diffusers' layout. lgm.safetensors: LGM's, without the layers for the noise level.
    released/ckpt/mv_model_unet.pth and recon_model.pth: the released checkpoint's two state dicts.
    """
    from diffusers import EulerDiscreteScheduler
    from safetensors.torch import save_file
    from transformers import CLIPImageProcessor

    folder = Path(folder)
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
