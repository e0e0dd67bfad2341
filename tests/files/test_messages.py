"""What is said of a disk that refuses: where, what, and what to do, on one line."""

import errno

import numpy as np
import pytest
from safetensors import SafetensorError

from ouroboros_lib.files import disk_trouble, new_folder, where
from ouroboros_lib.files.messages import ADVICE


@pytest.mark.parametrize("error, line", [
    (OSError(errno.ENOSPC, "No space left on device"), f"out: No space left on device; {ADVICE[errno.ENOSPC]}"),
    (SafetensorError("I/O error: No room (os error 28)"), f"out: No space left on device; {ADVICE[errno.ENOSPC]}"),
    (OSError(errno.EROFS, "Read-only file system", "x"), "x: Read-only file system; choose another "
     "place"), (OSError(errno.EIO, "Input/output error", "a/hidden/b"), "out: Input/output error"),
    (OSError("8 requested\nand 0 written"), "out: 8 requested and 0 written"), (OSError("no room in out"),
                                                                              "no room in out")])
def test_trouble_is_told_with_its_place(error, line):
    with pytest.raises(OSError) as caught, where("out", "hidden"), where("out", "hidden"):
        raise error
    assert disk_trouble(caught.value) == line


@pytest.mark.parametrize("write", [lambda path: np.save(path, np.ones(99)), lambda path: path.write_bytes(b"x")])
def test_a_device_that_is_full(tmp_path, write):
    with pytest.raises(OSError) as caught, new_folder(tmp_path / "out") as part:
        (part / "a.npy").symlink_to("/dev/full")
        write(part / "a.npy")
    assert disk_trouble(caught.value).startswith(f"{tmp_path}: ") and not list(tmp_path.iterdir())
