"""Which Gaussians each tile of an image draws, front to back."""

import numpy as np
from numba import njit, prange

from ..errors import InputError
from .kernels import OPTIONS, THREADS

TILE = 16  # pixels
MAX_ENTRIES = 2**29  # a Gaussian in a tile's list takes 4 bytes


@njit(**OPTIONS)
def within(x, low, high):
    """x as an integer, clamped before it becomes one: numbers of any size have a place, and NaN is `low`."""
    return low if not x > low else (high if x > high else int(x))


@njit(**OPTIONS)
def _tiles(centre, radius, side):
    """Tiles [first, end) that centre +- radius touches."""
    return (within(np.floor((centre - radius) / TILE), 0, side), within(np.ceil((centre + radius) / TILE), 0, side))


@njit(**OPTIONS)
def _sort_digit(keys, order, shift, to_keys, to_order):
    """One pass of a radix sort: stable, by 16 bits of the uint32 keys."""
    place = np.zeros(65537, np.int64)
    for i in range(len(keys)):
        place[((keys[i] >> shift) & np.uint32(65535)) + 1] += 1
    for digit in range(65536):
        place[digit + 1] += place[digit]
    for i in range(len(keys)):
        digit = (keys[i] >> shift) & np.uint32(65535)
        to_keys[place[digit]] = keys[i]
        to_order[place[digit]] = order[i]
        place[digit] += 1


@njit(**OPTIONS)
def _list_image(u, v, depth, radius_u, radius_v, side, lengths, order):
    """Count the entries of each tile of one image; write the drawn Gaussians into `order`, front to back."""
    drawn = 0
    for g in range(len(u)):
        if radius_u[g] > 0:
            order[drawn] = g
            drawn += 1
            left, right = _tiles(u[g], radius_u[g], side)
            top, bottom = _tiles(v[g], radius_v[g], side)
            for row in range(top, bottom):
                for column in range(left, right):
                    lengths[row * side + column] += 1
    bits = depth.view(np.uint32)  # of positive floats, they sort like the floats
    keys, other_keys, other_order = np.empty(drawn, np.uint32), np.empty(drawn, np.uint32), np.empty(drawn, np.int32)
    for i in range(drawn):
        keys[i] = bits[order[i]]
    _sort_digit(keys, order[:drawn], np.uint32(0), other_keys, other_order)
    _sort_digit(other_keys, other_order, np.uint32(16), keys, order[:drawn])
    return drawn


@njit(**OPTIONS)
def _enter_image(u, v, radius_u, radius_v, side, order, starts, entries):
    """Append each Gaussian of `order` to the lists of the tiles that it touches."""
    place = starts[:side * side].copy()
    for g in order:
        left, right = _tiles(u[g], radius_u[g], side)
        top, bottom = _tiles(v[g], radius_v[g], side)
        for row in range(top, bottom):
            for column in range(left, right):
                tile = row * side + column
                entries[place[tile]] = g
                place[tile] += 1


@njit(parallel=THREADS, **OPTIONS)
def _list(u, v, depth, radius_u, radius_v, side, lengths, orders, drawn):
    for i in prange(len(u)):
        drawn[i] = _list_image(u[i], v[i], depth[i], radius_u[i], radius_v[i], side, lengths[i], orders[i])


@njit(parallel=THREADS, **OPTIONS)
def _enter(u, v, radius_u, radius_v, side, orders, drawn, starts, entries):
    for i in prange(len(u)):
        order, own_starts = orders[i, :drawn[i]], starts[i * side * side:]
        _enter_image(u[i], v[i], radius_u[i], radius_v[i], side, order, own_starts, entries)


def list_tiles(u, v, depth, radius_u, radius_v, size):
    """Lists of Gaussians per image and tile, front to back. u ... radius_v: (I, N).

    Returns starts (I * tiles + 1,), where the list of each tile begins in entries (E,), indices into N.
    """
    side = tiles_along(size)
    lengths = np.zeros((len(u), side * side), np.int64)
    orders, drawn = np.empty(u.shape, np.int32), np.empty(len(u), np.int64)
    _list(u, v, depth, radius_u, radius_v, side, lengths, orders, drawn)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    if starts[-1] > MAX_ENTRIES:
        raise InputError(f"{len(u)} pictures of {size} pixels with {u.shape[1]} Gaussians: {starts[-1]:.2e} tiles are "
                         f"covered, {MAX_ENTRIES:.0e} fit into memory; draw fewer views at once, or smaller Gaussians")
    entries = np.empty(starts[-1], np.int32)
    _enter(u, v, radius_u, radius_v, side, orders, drawn, starts, entries)
    return starts, entries


def tiles_along(size):
    """Tiles along one side of the image."""
    return -(-size // TILE)
