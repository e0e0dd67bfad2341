"""What files would show if they had been read wrongly. A misreading that fits the truth much better is to be stated."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..data.folders import MultiviewObject
from .metrics import psnr
from .pictures import resized, zoomed
from .shapes import Shape

MARGIN, ENOUGH = 3.0, 50.0  # dB: by how much it must be better; above, differences are those of rounding
SIZE, VIEWS = 64, 4  # pixels of what is compared, and how many views of shapes

Images = dict[int, Tensor]  # view -> (3, S, S)
Misreadings = list[tuple[str, "Images | Shape"]]


def of_pictures(pictures: Sequence[Tensor], views: Sequence[int | None],
                unpadded: Sequence[Tensor] = ()) -> Misreadings:
    """Pictures of an orbit, of which number k was read as view `views[k]`: mirrored, and in other orders; small.

    unpadded: the pictures of the same file if its padding were none.
    """
    steps = range(count := len(pictures))
    orders = [("", list(steps)), *(("turning the other way round", [(start - k) % count for k in steps])
                                   for start in (0, -1, -2)),
              *(("shifted by one view", [(k + step) % count for k in steps]) for step in (1, -1))]
    small, uncut = ([resized(picture, min(SIZE, picture.shape[-1])) for picture in some]
                    for some in (pictures, unpadded))
    flipped = [picture.flip(-1) for picture in small]
    found = [(" and ".join(filter(None, (mirrored, order))), [source[k] for k in numbers])
             for mirrored, source in (("", small), ("mirrored", flipped)) for order, numbers in orders]
    found = [*found[1:], *([("without padding", uncut)] if uncut else [])]
    return [(name, {view: picture for view, picture in zip(views, changed, strict=True) if view is not None})
            for name, changed in found if any(view is not None for view in views)]


def of_shape(shape: Shape) -> Misreadings:
    """A splat or mesh, mirrored along each of our axes."""
    signs = (torch.diag(torch.tensor([-1.0 if i == axis else 1.0 for i in range(4)]).double()) for axis in range(3))
    return [("mirrored", replace(shape, from_ours=shape.from_ours @ sign)) for sign in signs]


def doubt(images: Images, misreadings: Misreadings, truth: MultiviewObject, primary: Sequence[int],
          scale: float = 1.0) -> str:
    """What the misreading is called that fits the truth best, if by 3 dB more than the images as read; "" if none does.

    primary: the views that count; scale: by which an alignment has enlarged the images.
    """
    if not misreadings:
        return ""
    views, size, found, best = list(primary[::-(-len(primary) // VIEWS)]), min(SIZE, truth.rgba.shape[-1]), "", MARGIN
    as_read, true = ({view: resized(image, size) for view, image in pictures}
                     for pictures in (images.items(), enumerate(truth.images)))
    for name, other in misreadings:
        if isinstance(other, Shape):
            other = dict(zip(views, other.turned(0, scale).seen(truth.cameras.views(views), size)[0], strict=True))
        elif scale != 1:
            other = {view: zoomed(image, scale) for view, image in other.items()}
        theirs, ours, target = (torch.stack([source[view] for view in other]) for source in (other, as_read, true))
        gain = psnr(theirs, target).clamp(max=ENOUGH) - psnr(ours, target).clamp(max=ENOUGH)
        if float(gain.mean()) > best:
            found, best = name, float(gain.mean())
    return found
