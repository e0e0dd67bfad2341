"""How far half precision is from single: `python -m tools.half_precision [PRESET] [--steps 25] [--modes ...]`.

Everything is compared with the same weights in float32, not compiled, without TF32, from the same noise, as PSNR in dB:
of the estimates of F at a few noise levels (their peak is their own range), of what a whole step makes of them (decoded
views, renders of G), and with --steps of the whole recursion. Modes are those of `tools.benchmark`.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.errors import InputError
from ouroboros_lib.loading import convert_weights
from ouroboros_lib.pipeline import Ouroboros3DPipeline
from ouroboros_lib.plans import Plan
from tools import one_line_for_bad_input
from tools.benchmark import MODES, dtype_of, load, write_records

SIGMAS = (700.0, 20.0, 1.0, 0.05)


def decibels(value: Tensor, reference: Tensor, peak: float | Tensor = 1.0) -> float:
    """PSNR of all numbers together; infinite where they agree."""
    error = (value.double() - reference.double()).square().mean()
    return float(10 * torch.log10(peak**2 / error))


@torch.no_grad()
def one_step(pipeline: Ouroboros3DPipeline, sigmas: Iterable[float] = SIGMAS, seed: int = 0) -> dict[str, Tensor]:
    """What one step makes of the same noisy latents at each sigma: name to (1, V, ...), in float32.

    The latents are noise of level sigma around nothing; feedback is given, the renders of the condition view's splats.
    """
    device, views, size = pipeline.device, pipeline.num_views, pipeline.image_size
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand(1, 3, size, size, generator=generator).to(device)
    cameras = evenly_spaced_orbit(views, 10.0).to(device).expand(1)
    cond = pipeline.condition(picture, cameras, Plan(), pipeline.config.guidance_scale,
                              torch.Generator().manual_seed(seed))
    noise = torch.randn(1, views, *cond.latents.shape[1:], generator=generator).to(device)
    maps = torch.rand(2, 1, views, 3, size, size, generator=generator).to(device)
    self_cond = {"rgb": maps[0], "ccm": maps[1]}
    results = {}
    for level in sigmas:
        sigma = torch.full((1,), level, device=device)
        pred_x = pipeline.estimate(noise * (level**2 + 1) ** 0.5, sigma, cond, cameras, self_cond)
        pred_i = pipeline.decode(pred_x)
        renders = pipeline.render(pipeline.reconstruct(pred_i, cameras, sigma), cameras)
        results |= {f"F, sigma {level:g}": pred_x, f"views, sigma {level:g}": pred_i,
                    f"renders, sigma {level:g}": renders.rgb.clamp(0, 1), f"CCM, sigma {level:g}": renders.ccm}
    return {name: value.float() for name, value in results.items()}


@torch.no_grad()
def whole_loop(pipeline: Ouroboros3DPipeline, steps: int, seed: int = 0, **arguments) -> dict[str, Tensor]:
    """Views, and renders of their reconstruction, of the recursion for a held-out object: name to (1, V, 3, S, S)."""
    data = held_out_objects("val", 1, pipeline.image_size, pipeline.num_views, device=pipeline.device, start=seed)
    output = pipeline(data.images[:, 0], cameras=data.orbit_cameras, num_inference_steps=steps,
                      generator=torch.Generator().manual_seed(seed), **arguments)
    return {"views": output.views.float(), "renders": output.renders.rgb.float().clamp(0, 1)}


def compare(results: dict[str, Tensor], references: dict[str, Tensor]) -> dict[str, float]:
    """dB of each; estimates of F against their own range, everything else is in [0, 1]."""
    return {name: decibels(value, references[name],
                           references[name].abs().amax().double() if name.startswith("F,") else 1.0)
            for name, value in results.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.half_precision", description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="narrow")
    parser.add_argument("--steps", type=int, default=0, help="of the whole recursion; 0: one step alone")
    parser.add_argument("--modes", default="bf16-weights,fp16-weights")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    if unknown := set(options.modes.split(",")) - set(MODES):
        parser.error(f"--modes: {sorted(unknown)[0]} is none of {', '.join(MODES)}")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    exact, records = load(options.preset, options.device), []
    seeds = [int(seed) for seed in options.seeds.split(",")]
    guidances = dict.fromkeys((1.0, exact.config.guidance_scale if not isinstance(exact.config.guidance_scale, list)
                               else tuple(exact.config.guidance_scale)))

    def measured(pipeline: Ouroboros3DPipeline, seed: int, mode: str = "eager") -> dict[str, Tensor]:
        with torch.autocast(pipeline.device.type, torch.bfloat16, enabled=mode.endswith("bf16")):
            results = one_step(pipeline, seed=seed)
            for guidance in guidances if options.steps else ():
                loop = whole_loop(pipeline, options.steps, seed, guidance_scale=guidance)
                results |= {f"{name}, {options.steps} steps, guidance {guidance}": value
                            for name, value in loop.items()}
        return results

    references = {seed: measured(exact, seed) for seed in seeds}
    for mode in options.modes.split(","):
        pipeline = copy.deepcopy(exact)
        try:
            convert_weights(pipeline, dtype_of(mode))
        except InputError as error:
            parser.error(f"{options.preset}, mode {mode}: {error}")
        if mode.startswith("compiled"):
            pipeline.compile()
        for seed in seeds:
            figures = compare(measured(pipeline, seed, mode), references[seed])
            records.append({"preset": options.preset, "mode": mode, "seed": seed, "dB": figures})
            for name, value in figures.items():
                print(f"{mode:22s} seed {seed}  {name:42s} {value:6.1f} dB", flush=True)
        del pipeline
    if options.json:
        write_records(options.json, "precision", records, exact.device)


if __name__ == "__main__":
    with one_line_for_bad_input():
        main()
