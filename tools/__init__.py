"""What measures the library and is not part of it; run from the repository's root, as `python -m tools.NAME`."""

from ouroboros_lib.speed.threads import prepare

prepare()  # as the command line does, before a tool imports torch
