"""Shards of objects at hand, made as `ouroboros data shards` makes them."""

import tempfile
from pathlib import Path

from ouroboros_lib.data.folders import write_object
from ouroboros_lib.data.packing import pack


def no_fault(name, error=None):
    """What `pack` is to call: nothing may be left out."""
    assert error is None, error


def write_shards(objects, out, max_bytes=2**29):
    with tempfile.TemporaryDirectory() as folder:
        for views in objects:
            write_object(Path(folder, views.name), views)
        pack(Path(folder), [views.name for views in objects], out, max_bytes, no_fault)
