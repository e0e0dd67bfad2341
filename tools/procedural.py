"""How fast objects are made, and how well the CPU and the GPU agree.

`python -m tools.procedural` prints lines of JSON; without CUDA, the CPU's figures alone.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from ouroboros_lib.cameras import evenly_spaced_orbit
from ouroboros_lib.data.procedural.objects import sample_objects
from ouroboros_lib.data.procedural.rendering import render_objects


def _say(**values) -> None:
    print(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}), flush=True)


def sampling(batch: int) -> None:
    """Objects per second of `sample_objects` alone."""
    sample_objects("train", range(batch))
    start = time.perf_counter()
    for i in range(4):
        sample_objects("train", range(i * batch, (i + 1) * batch))
    _say(what="sampling parameters", batch=batch, objects_per_s=4 * batch / (time.perf_counter() - start))


def cpu(count: int, size: int) -> None:
    """Objects per second on the CPU: 8 views, 2 x 2 samples."""
    rig = evenly_spaced_orbit(8).expand(count)
    render_objects(sample_objects("train", range(count)), rig, size)  # compiles
    start = time.perf_counter()
    render_objects(sample_objects("train", range(count, 2 * count)), rig, size)
    _say(what="CPU, sampling and 8 views", size=size, threads=torch.get_num_threads(),
         objects_per_s=count / (time.perf_counter() - start))


def gpu(batch: int, size: int, views: int, rounds: int, tile: int, warps: int, samples: bool) -> None:
    """Objects per second on CUDA, 2 x 2 samples; with `samples`, sampling on the CPU and the copy are included."""
    from ouroboros_lib.data.procedural import render_triton

    render_triton.TILE, render_triton.WARPS = tile, warps
    rig = evenly_spaced_orbit(views).expand(batch).to("cuda")
    objects = sample_objects("train", range(batch)).to("cuda")
    render_objects(objects, rig, size)  # compiles
    torch.cuda.synchronize()
    start = time.perf_counter()
    for i in range(rounds):
        if samples:
            objects = sample_objects("train", range(i * batch, (i + 1) * batch)).to("cuda", non_blocking=True)
        render_objects(objects, rig, size)
    torch.cuda.synchronize()
    _say(what="GPU, with sampling" if samples else "GPU, rendering alone", device=torch.cuda.get_device_name(),
         batch=batch, views=views, size=size, tile=tile, warps=warps,
         objects_per_s=rounds * batch / (time.perf_counter() - start))


def agreement(count: int, size: int) -> None:
    """The same objects on CPU and GPU: how many color and alpha values are within 2/255, and depths within 1e-3."""
    objects = sample_objects("val", range(count))
    rig = evenly_spaced_orbit(8).expand(count)
    ours = render_objects(objects, rig, size, depth=True)
    theirs = render_objects(objects.to("cuda"), rig.to("cuda"), size, depth=True)
    difference = (ours.rgba.int() - theirs.rgba.cpu().int()).abs()
    apart = (ours.depth - theirs.depth.cpu()).abs()
    _say(what="CPU against GPU", objects=count, size=size, within_2=(difference <= 2).double().mean().item(),
         equal=(difference == 0).double().mean().item(), largest=difference.max().item(),
         depth_within_1e_3=(apart < 1e-3).double().mean().item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--views", type=int, default=12, help="of the GPU's measurement")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--sweep", action="store_true", help="try other tiles and numbers of warps on the GPU")
    args = parser.parse_args()
    sampling(args.batch)
    cpu(16, args.size)
    if not torch.cuda.is_available():
        _say(what="no CUDA device: nothing to compare with")
        return
    from ouroboros_lib.data.procedural import render_triton

    chosen = (render_triton.TILE, render_triton.WARPS)
    agreement(64, args.size)
    if args.sweep:
        for tile, warps in ((4, 1), (4, 2), (8, 1), (8, 2), (8, 4), (8, 8), (16, 4), (16, 8)):
            gpu(args.batch, args.size, args.views, 4, tile, warps, samples=False)
    gpu(args.batch, args.size, args.views, 10, *chosen, samples=False)
    gpu(args.batch, args.size, args.views, 10, *chosen, samples=True)


if __name__ == "__main__":
    main()
