"""The settings of a training run, with the reason for each default."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from ..errors import InputError
from ..models.feedback import COORDINATE_MAPS, feedback_names
from ..models.layers import VIEW_ATTENTIONS
from ..plans import changed

STAGES = ("autoencoder", "reconstructor", "multiview", "joint")
CHOICES = {"stage": STAGES, "coordinate_map": COORDINATE_MAPS,
           "view_attention": ("", *VIEW_ATTENTIONS), "mixed_precision": ("no", "fp16", "bf16"),
           "schedule": ("cosine", "constant"), "image_loss": ("mixed", "mse", "l1"), "lpips": ("off", "alex", "vgg"),
           "condition_view": ("first", "random"), "optimizer": ("adamw", "muon"),
           "ema_device": ("same", "cpu"), "gradient_exchange": ("fp32", "bf16")}
LIMITS = (  # lowest and highest values, in words, and of what
    (1, math.inf, "be at least 1", "steps batch_size accumulation ema_every reconstruction_batch objects "
                                   "refresh_objects refresh_every log_every validation_objects lpips_size"),
    (sys.float_info.min, sys.float_info.max, "be a positive number",
     "learning_rate reconstructor_learning_rate gradient_clip"),
    (0, 2**32 - 1, f"lie between 0 and {2**32 - 1}", "seed"),
    (0, math.inf, "not be negative", "novel_views workers shuffle held_out condition_noise_std"),
    (0, 1, "lie between 0 and 1", "self_conditioning_probability condition_dropout warmup ema_decay orbit_supervision "
                                "procedural_share"),
    (0, math.nextafter(1, 0), "be at least 0 and below 1", "adam_beta2"))


@dataclass
class TrainingConfig:
    """One run. The rows of the paper's ablation (table 2) are settings of `joint`, `feedback` and the ones below."""

    stage: str = "joint"  # what is trained: VAE, G on clean views, F alone, or F and G together (Algorithm 1)
    steps: int = 2000
    max_minutes: float = 0.0  # stop earlier, 0: never; the learning rate then follows the clock, which starts after the
    # first step: what is compiled until then differs between the rows of an ablation
    batch_size: int = 64  # objects of one process; pictures when the autoencoder is trained
    accumulation: int = 1  # batches whose gradients are added up before each step
    learning_rate: float = 6e-4  # of the autoencoder and F
    reconstructor_learning_rate: float = 3e-4
    warmup: float = 0.03  # share of the run in which the learning rate rises
    schedule: str = "cosine"  # how it falls afterwards: cosine, or not at all: constant
    optimizer: str = "adamw"  # muon: for the matrices between F's and G's first and last layers; AdamW for the rest
    weight_decay: float = 0.01
    adam_beta2: float = 0.99  # of AdamW; shorter than usual, for short runs
    gradient_clip: float = 1.0
    clip_together: bool = False  # one norm over all networks that are trained; False: each network has its own
    ema_decay: float = 0.999  # a step
    ema_every: int = 1  # steps between updates of the averages: weights travel to the CPU for each if they lie there
    ema_device: str = "same"  # where the averages lie: cpu frees four bytes a parameter on the GPU
    mixed_precision: str = "no"  # no, fp16, bf16
    gradient_exchange: str = "fp32"  # how gradients travel between GPUs: bf16 rounds them, and halves the traffic
    compile: bool = False  # torch.compile: a minute first, then faster steps
    cuda_graphs: bool = False  # F's passes are recorded and replayed (fast/cuda_graphs.py); not with FSDP
    gradient_checkpointing: bool = False  # of SVD's layers: activations are computed twice instead of kept
    seed: int = 0

    single_view: bool = False  # G alone sees the condition view at all cameras: a feed-forward peer without diffusion
    view_attention: str = ""  # of a new F: joint or factorised (as in SVD); empty: what the preset says
    train_encoder: bool = True  # of the autoencoder; False polishes the decoder and leaves the latents as they are

    # Algorithm 1
    joint: bool = True  # G learns from F's estimates as well; False: two stages, G sees clean views only
    feedback: str = "both"  # which maps F is given back: both, rgb, ccm, none
    coordinate_map: str = "canonical"  # what is fed back as CCM: the paper's map, or the released code's: released
    self_conditioning_probability: float = 0.5  # line 5: share of examples that take the second pass
    detach_feedback: bool = True  # no gradient from the second pass through the renders into G
    decoder_gradient: bool = False  # loss_recon also reaches F, through the decoder
    reconstruction_batch: int = 6  # examples of the batch that loss_recon is computed on, and as many clean ones
    condition_dropout: float = 0.1  # share of examples without condition view, for classifier-free guidance; SVD's: a
    # share each without token, without latents and without both
    condition_noise_mean: float = -3.0  # SVD's condition view is noised, log sigma ~ N(mean, std^2) in range [-1, 1]
    condition_noise_std: float = 0.5
    image_loss: str = "mixed"  # of renders: L1 + 2 MSE + structure + alpha; the paper's mse; the released code's l1
    lpips: str = "off"  # added to it: alex (released code) or vgg (paper), where its weights can be had
    lpips_size: int = 256  # pixels a side that LPIPS compares at most, as LGM does: larger VGG activations outweigh G's
    orbit_supervision: float = 0.5  # share of the orbit's views, drawn at random, that renders are compared with
    clean_sigma: float = 0.002  # the noise level that G is given with ground-truth views
    sample_latents: bool = False  # latents of the views are drawn from the encoder's posterior; False: its mode

    # data and bookkeeping
    objects: int = 4096  # rendered objects that are kept to draw from
    refresh_objects: int = 32  # how many of them are renewed at a time
    refresh_every: int = 4  # steps between renewals
    novel_views: int = 4  # supervision views off the orbit
    condition_view: str = "first"  # of --data: the orbit begins at its first frame, or at a random one
    orbit_views: str = ""  # of --data: numbers of the views that make the orbit, as 0,2,4; empty: evenly spaced
    procedural_share: float = 0.0  # of --data: share of a batch that is procedural; above 0, `objects` of both kinds
    # are kept to draw from, those of --data with other colours, and replaced as fast as `workers` bring new ones
    held_out: int = 0  # of meshes in --data: how many are never trained on (those of `data render --held-out`)
    swatches: str = ""  # of meshes in --data: a folder of pictures to paint flat-coloured ones with
    workers: int = 2  # processes that read --data, or render its meshes, for each process that trains
    shuffle: int = 64  # objects of a shard that are kept to draw from
    log_every: int = 50
    validate_every: int = 0  # steps between sheets of pictures, 0: only at the end
    validation_objects: int = 8
    checkpoint_every: int = 500

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        feedback_names(self.feedback)
        for low, high, rule, names in LIMITS:
            for name in names.split():
                if not low <= getattr(self, name) <= high:
                    raise InputError(f"{name}={getattr(self, name)}: must {rule}")
        if self.optimizer == "muon" and self.stage == "autoencoder":
            raise InputError("optimizer=muon: is for F and G, not for stage=autoencoder")
        if self.cuda_graphs and (self.stage not in ("multiview", "joint") or self.decoder_gradient
                                 or not self.detach_feedback or self.mixed_precision == "fp16"):
            raise InputError("cuda_graphs=true: is for stage=multiview or joint, detach_feedback=true and "
                             "decoder_gradient=false, and not for mixed_precision=fp16")

    @classmethod
    def from_settings(cls, settings: list[str]) -> TrainingConfig:
        """From `key=value` strings, as `--set` gives them. Raises InputError for unknown keys or unfit values."""
        return changed(cls(), settings, "--set ")
