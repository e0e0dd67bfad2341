"""The condition view as one token: CLIP's image embedding, with SVD's way of shrinking the picture."""

from torch import Tensor, nn

from .layers import constant

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def image_token(encoder: nn.Module, images: Tensor) -> Tensor:
    """(B, 3, S, S) in [0, 1] to (B, 1, D), float32.

    encoder: transformers' `CLIPVisionModelWithProjection`; SVD's is ViT-H/14 with D = 1024. What SVD was trained with
    in front of CLIP is bicubic with aligned corners, behind a blur that is cut off early: the weights know no other.
    """
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    small = _resize_with_antialiasing(images.float(), (encoder.config.image_size,) * 2)
    mean, std = (constant(values, small)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return encoder(((small - mean) / std).to(encoder.dtype)).image_embeds[:, None].float()
