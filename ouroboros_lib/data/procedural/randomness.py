"""Counter-based random numbers: draw j of object i is a hash of (split, seed, i, j), and of nothing else.

So object i is the same whatever batch it is made in, on every machine, and no generator has to be wound forward.
The hash is the output function of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
2014), a bijection of the 64-bit words: keys of different (split, index) of one seed can never be equal.
"""

import numpy as np

SPLITS = ("train", "val", "test", "heldout")
MAX_INDEX = 2**60

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


def _mix(words: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, elementwise on a uint64 array (arithmetic modulo 2^64)."""
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * _M1
    words = (words ^ (words >> np.uint64(27))) * _M2
    return words ^ (words >> np.uint64(31))


_BLOCK = 64  # draws made at a time; the values do not depend on it


def stream_keys(split: str, seed: int, indices: np.ndarray) -> np.ndarray:
    """The 64-bit keys (n,) of objects `indices`; all different between splits and indices of one seed."""
    word = np.uint64(SPLITS.index(split) << 60) | indices.astype(np.uint64)
    return _mix(_mix(word ^ _mix(_mix(np.array([seed % 2**64], dtype=np.uint64)))))


class Draws:
    """Successive random numbers for n objects at once; every method returns n values and advances all n streams."""

    def __init__(self, keys: np.ndarray, first: int = 0):
        self.keys = keys
        self.count = len(keys)
        self.counter = first
        self._start, self._block = 0, np.empty((0, 0))

    def unit(self) -> np.ndarray:
        """(n,) float64 in [0, 1)."""
        if self.counter >= self._start + len(self._block):
            self._start = self.counter
            counters = _mix(np.arange(self._start, self._start + _BLOCK, dtype=np.uint64))
            self._block = (_mix(self.keys ^ counters[:, None]) >> np.uint64(11)) * 2.0**-53
        self.counter += 1
        return self._block[self.counter - 1 - self._start]

    def uniform(self, low, high) -> np.ndarray:
        return low + (high - low) * self.unit()

    def chance(self, probability: float) -> np.ndarray:
        """(n,) bool."""
        return self.unit() < probability

    def integer(self, n: int) -> np.ndarray:
        """(n,) in 0 ... n-1."""
        return (self.unit() * n).astype(np.int64)

    def choose(self, *options):
        """One of the options (numbers or (n, ...) arrays) for each object, all equally likely."""
        return select(self.integer(len(options)), *options)


def select(which: np.ndarray, *options):
    """options[which[i]][i] for every object i; options are numbers, (n,) or (n, m) arrays."""
    if any(np.ndim(option) == 2 for option in options):
        which = which[:, None]
    result = options[0]
    for i, option in enumerate(options[1:], start=1):
        result = np.where(which == i, option, result)
    return result
