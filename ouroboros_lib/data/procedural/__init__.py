"""A procedural universe of objects with exact views, depth and distances: what the small models learn from.

    objects = sample_objects("train", range(8))
    views = render_objects(objects, evenly_spaced_orbit(8).expand(8), size=128, depth=True)
"""

from .objects import FAMILIES, HELD_OUT_FAMILY, Objects, sample_objects
from .rendering import ObjectViews, render_objects, signed_distance

__all__ = ["FAMILIES", "HELD_OUT_FAMILY", "ObjectViews", "Objects", "render_objects", "sample_objects",
           "signed_distance"]
