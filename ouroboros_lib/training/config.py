"""The settings of a training run, with the reason for each default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..errors import InputError
from ..models.feedback import CoordinateMap, feedback_names
from ..models.layers import VIEW_ATTENTIONS
from ..values import Between, Natural, Positive, changed, check_fields

Precision = Literal["no", "fp16", "bf16"]
Schedule = Literal["cosine", "constant"]
ImageLoss = Literal["mixed", "mse", "l1"]
Lpips = Literal["off", "alex", "vgg"]
Start = Literal["first", "random"]
Optimizer = Literal["adamw", "muon"]
Place = Literal["same", "cpu"]
Exchange = Literal["fp32", "bf16"]
NotNegative = Annotated[float, Between(0)]
ViewAttention = Literal[("", *VIEW_ATTENTIONS)]
Stage = Literal["autoencoder", "reconstructor", "multiview", "joint"]
Count = Annotated[int, Between(1)]
Share = Annotated[float, Between(0, 1)]


@dataclass
class TrainingConfig:
    """One run. The rows of the paper's ablation (table 2) are settings of `joint`, `feedback` and the ones below."""

    stage: Stage = "joint"  # what is trained: VAE, G on clean views, F alone, or F and G together (Algorithm 1)
    steps: Count = 2000
    max_minutes: NotNegative = 0.0  # stop earlier, 0: never; the learning rate then follows the clock, which starts
    # after the first step: what is compiled until then differs between the rows of an ablation
    batch_size: Count = 64  # objects of one process; pictures when the autoencoder is trained
    accumulation: Count = 1  # batches whose gradients are added up before each step
    learning_rate: Positive = 6e-4  # of the autoencoder and F
    reconstructor_learning_rate: Positive = 3e-4
    warmup: Share = 0.03  # share of the run in which the learning rate rises
    schedule: Schedule = "cosine"  # how it falls afterwards: cosine, or not at all: constant
    optimizer: Optimizer = "adamw"  # muon: for the matrices between first and last layers of F and G; AdamW: the rest
    weight_decay: NotNegative = 0.01
    adam_beta2: Annotated[float, Between(0, 1, below=True)] = 0.99  # of AdamW; shorter than usual, for short runs
    gradient_clip: Positive = 1.0
    clip_together: bool = False  # one norm over all networks that are trained; False: each network has its own
    ema_decay: Share = 0.999  # a step
    ema_every: Count = 1  # steps between updates of the averages: weights travel to the CPU for each if they lie there
    ema_device: Place = "same"  # where the averages lie: cpu frees four bytes a parameter on the GPU
    mixed_precision: Precision = "no"  # no, fp16, bf16
    gradient_exchange: Exchange = "fp32"  # how gradients travel between GPUs: bf16 rounds them, and halves the traffic
    compile: bool = False  # torch.compile: a minute first, then faster steps
    cuda_graphs: bool = False  # F's passes are recorded and replayed (fast/cuda_graphs.py); not with FSDP
    gradient_checkpointing: bool = False  # of SVD's layers: activations are computed twice instead of kept
    seed: Annotated[int, Between(0, 2**32 - 1)] = 0

    single_view: bool = False  # G alone sees the condition view at all cameras: a feed-forward peer without diffusion
    view_attention: ViewAttention = ""  # of a new F: joint or factorised (as in SVD); empty: what the preset says
    train_encoder: bool = True  # of the autoencoder; False polishes the decoder and leaves the latents as they are

    # Algorithm 1
    joint: bool = True  # G learns from F's estimates as well; False: two stages, G sees clean views only
    feedback: str = "both"  # which maps F is given back: both, rgb, ccm, none
    coordinate_map: CoordinateMap = "canonical"  # what is fed back as CCM: the paper's map, or released: the code's
    self_conditioning_probability: Share = 0.5  # line 5: share of examples that take the second pass
    detach_feedback: bool = True  # no gradient from the second pass through the renders into G
    decoder_gradient: bool = False  # loss_recon also reaches F, through the decoder
    reconstruction_batch: Count = 6  # examples of the batch that loss_recon is computed on, and as many clean ones
    condition_dropout: Share = 0.1  # share of examples without condition view, for classifier-free guidance; SVD's: a
    # share each without token, without latents and without both
    condition_noise_mean: float = -3.0  # SVD's condition view is noised, log sigma ~ N(mean, std^2) in range [-1, 1]
    condition_noise_std: NotNegative = 0.5
    image_loss: ImageLoss = "mixed"  # of renders: L1 + 2 MSE + structure + alpha; mse: the paper's; l1: the code's
    lpips: Lpips = "off"  # added to it: alex (released code; ships) or vgg (paper; `convert lpips` brings it)
    lpips_weight: NotNegative = 1.0  # of LPIPS beside the other terms
    lpips_size: Count = 256  # pixels a side for LPIPS at most, as in LGM: larger VGG activations outweigh G's
    orbit_supervision: Share = 0.5  # share of the orbit's views, drawn at random, that renders are compared with
    clean_sigma: Positive = 0.002  # the noise level that G is given with ground-truth views
    sample_latents: bool = False  # latents of the views are drawn from the encoder's posterior; False: its mode

    # data and bookkeeping
    objects: Count = 4096  # rendered objects that are kept to draw from
    refresh_objects: Count = 32  # how many of them are renewed at a time
    refresh_every: Count = 4  # steps between renewals
    novel_views: Natural = 4  # supervision views off the orbit
    condition_view: Start = "first"  # of --data: the orbit begins at its first frame, or at a random one
    orbit_views: str = ""  # of --data: numbers of the views that make the orbit, as 0,2,4; empty: evenly spaced
    procedural_share: Share = 0.0  # of --data: share of a batch that is procedural; above 0, `objects` of both kinds
    # are kept to draw from, those of --data with other colours, and replaced as fast as `workers` bring new ones
    held_out: Natural = 0  # of meshes in --data: how many are never trained on (those of `data render --held-out`)
    household_share: Share = 0.0  # of meshes in --data: share that household things with labels take the place of
    swatches: str = ""  # of meshes in --data: a folder of pictures to paint flat-coloured ones with
    workers: Natural = 2  # processes that read --data, or render its meshes, for each process that trains
    shuffle: Natural = 64  # objects of a shard that are kept to draw from
    log_every: Count = 50
    validate_every: Natural = 0  # steps between sheets of pictures, 0: only at the end
    validation_objects: Count = 8
    checkpoint_every: Natural = 500

    def __post_init__(self):
        check_fields(self)
        feedback_names(self.feedback)
        if self.lpips == "off" and self.lpips_weight != 1:
            raise InputError(f"lpips_weight={self.lpips_weight}: there is no LPIPS to weigh; set lpips=alex or vgg")
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
