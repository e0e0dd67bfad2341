"""Does it matter that views are clamped to [0, 1] before G sees them? `python -m tools.clamp [--objects N]`.

The released code does not clamp them. The shipped weights run both ways, with the same noise, on procedural test
objects; printed are the PSNR of views 1 to 7 and of the renders there, both ways, and the mean difference with its
95 % interval over the objects.
"""

import argparse

import torch
from torch import Tensor

from ouroboros_lib import Ouroboros3DPipeline
from ouroboros_lib.data.batches import held_out_objects
from ouroboros_lib.evaluation.statistics import paired_interval
from ouroboros_lib.losses import psnr

BATCH = 8


class Unclamped(Ouroboros3DPipeline):
    """G gets views as the decoder made them."""

    def in_range(self, images: Tensor) -> Tensor:
        return images


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.clamp", description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=64)
    parser.add_argument("--plan", default="paper")
    chosen = parser.parse_args(arguments)
    pipes = [kind.from_pretrained("small") for kind in (Ouroboros3DPipeline, Unclamped)]
    found: dict[str, list[Tensor]] = {"views": [], "renders": []}  # (2, B) each: clamped, unclamped
    for start in range(0, chosen.objects, BATCH):
        count = min(BATCH, chosen.objects - start)
        data = held_out_objects("test", count, pipes[0].image_size, pipes[0].num_views, start=start)
        results = []
        for pipe in pipes:
            pipe.set_progress_bar_config(disable=True)
            noise = [torch.Generator().manual_seed(start + row) for row in range(count)]
            results.append(pipe(data.images[:, 0], cameras=data.orbit_cameras, generator=noise, plan=chosen.plan))
        for name, of in (("views", lambda result: result.views), ("renders", lambda result: result.renders.rgb)):
            found[name].append(torch.stack([psnr(of(result)[:, 1:].clamp(0, 1), data.orbit_images[:, 1:]).mean(1)
                                            for result in results]))
    for name, parts in found.items():
        clamped, unclamped = torch.cat(parts, dim=1)
        print(f"{name:<8} clamped {clamped.mean():.3f} dB, unclamped {unclamped.mean():.3f} dB, difference "
              f"{paired_interval(unclamped[:, None].numpy(), clamped[:, None].numpy())}")


if __name__ == "__main__":
    main()
