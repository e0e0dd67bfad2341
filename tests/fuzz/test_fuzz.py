"""A little of what `make fuzz` does for long, the same in every run; and that it notices what it is there for."""

import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ouroboros_lib.data.condition_views import condition_views
from ouroboros_lib.errors import InputError
from ouroboros_lib.gaussians import Gaussians
from ouroboros_lib.gaussians.formats import FORMATS as SPLATS

from . import running
from .formats import FORMATS
from .mutations import CONTAINERS, mutate
from .running import CRASH, FAULTS, GARBAGE, HANG, KINDS, MEMORY, REFUSED, SOUND, WRONG, Folder, Format, expect, outcome
from .shapes import sound_splat

SLOW = {"pipeline": 4}  # inputs here; of the others:
INPUTS = 40
same_every_time = settings(derandomize=True, database=None, deadline=None, max_examples=INPUTS,
                           suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_damaged_files_are_read_soundly_or_refused_in_one_line(format):
    with tempfile.TemporaryDirectory() as place:
        folder = Folder(Path(place, "input"))
        for example in format.examples():
            assert outcome(format, folder.fill(example)) == (SOUND, "")

        @settings(same_every_time, max_examples=SLOW.get(format.name, INPUTS))
        @given(st.randoms(use_true_random=False))
        def read(random):
            kind, said = outcome(format, folder.fill(format.damaged(random)))
            assert kind not in FAULTS, said

        read()


# ---- what is given as objects ---------------------------------------------------------------------------------------

SHAPES = st.sampled_from([(), (0,), (9,), (9, 9), (9, 9, 3), (3, 9, 9), (9, 9, 4), (2, 9, 9, 3)])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
    | arrays.arrays(st.sampled_from([np.uint8, np.uint16, np.int64, np.float16, np.float32, np.complex64, "U3", bool]),
                    SHAPES) | arrays.arrays(object, SHAPES, elements=st.none() | st.floats()),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.just("a"), inner), max_leaves=4)


@same_every_time
@given(ANYTHING)
def test_whatever_a_pipeline_is_given_as_pictures(given_pictures):
    try:
        views = condition_views(given_pictures, 8)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert views.shape[1:] == (3, 8, 8) and ((views >= 0) & (views <= 1)).all()


def test_lists_within_themselves():
    endless: list = []
    endless.append(endless)
    deep: list = ["a.png"]
    for _ in range(100_000):
        deep = [deep]
    for pictures in (endless, deep):
        with pytest.raises(InputError, match="lists of pictures within more than 4 others, or within themselves"):
            condition_views(pictures, 8)
    while deep != ["a.png"]:  # else Python takes it apart in as deep a recursion
        deep = deep[0]


def numbers(*shape, **limits):
    return arrays.arrays(np.float32, shape, elements=st.floats(width=32, **limits)).map(torch.from_numpy)


@pytest.mark.parametrize("suffix", SPLATS)
def test_every_splat_is_written_and_read_or_refused(suffix):
    @same_every_time
    @given(st.builds(Gaussians, numbers(4, 3), numbers(4, min_value=0, max_value=1), numbers(4, 3, min_value=0),
                     numbers(4, 4), numbers(4, 3)))
    def write(gaussians):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, f"g{suffix}")
            try:
                gaussians.save(path)
            except InputError as error:
                assert not path.exists() and len(str(error).splitlines()) == 1
            else:
                sound_splat(Gaussians.load(path))

    write()


# ---- that it notices ------------------------------------------------------------------------------------------------


def read_as(reader) -> Format:
    return Format("made", lambda: [{"a.txt": b"sound"}], lambda folder: reader((folder / "a.txt").read_bytes()))


def endless(data):
    while True:
        pass


def much(data):
    raise InputError("cannot be read (Unable to allocate 3 TiB)")


def nothing(data):
    raise InputError


@pytest.mark.parametrize("reader, kind", [
    (len, SOUND), (lambda data: expect(False, "odd"), GARBAGE), (lambda data: int(data), WRONG), (nothing, WRONG),
    (lambda data: bytes(2**62), MEMORY), (much, MEMORY), (lambda data: exit(3), WRONG), (endless, HANG)])
def test_kinds_of_outcomes(tmp_path, monkeypatch, reader, kind):
    monkeypatch.setattr(running, "MOST_SECONDS", 0.1)
    assert outcome(read_as(reader), Folder(tmp_path).fill({"a.txt": b"x"}))[0] == kind


def test_much_memory_is_noticed_though_the_result_is_sound(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "MOST_MEMORY", 2**24)
    grown = running._peak() // 2**20 + 64  # MiB: more than this process has ever had
    assert outcome(read_as(lambda data: b"x" * (grown * 2**20)), Folder(tmp_path).fill({"a.txt": b"x"}))[0] == MEMORY


def fragile(data):
    if data == b"":
        os.abort()
    if len(data) > 5:
        raise InputError("too long")
    expect(data != b"soun", "cut off")
    if data.startswith(b"x"):
        time.sleep(100)


def test_a_campaign_survives_crashes_and_keeps_what_it_finds(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "MOST_WAITING", 1)
    format = read_as(fragile)
    totals = running.campaign([format], 1, 0.08, 1, tmp_path, seconds=1)[format.name]
    assert totals[SOUND] and totals[REFUSED] and totals[GARBAGE] and not totals[WRONG]
    assert totals[CRASH] and totals[HANG]
    found = {folder.name.split("-")[1]: folder for folder in tmp_path.iterdir()}
    assert found.keys() == {"silent", "crash", "hang"}
    assert (found["silent"] / "files" / "a.txt").read_bytes() == b"soun"
    assert "-m fuzz --replay" in (found["silent"] / "finding.txt").read_text()
    assert running.replay([format], found["silent"])[0] == GARBAGE
    assert running.table({"made": totals}).splitlines()[1].split()[1] == str(sum(totals.values()))
    assert set(totals) <= set(KINDS)


def test_a_seed_repeats_its_inputs():
    for format in FORMATS:
        if format.name not in SLOW:
            assert format.numbered(3, 8) == format.numbered(3, 8)


def test_opened_files_are_closed_again_as_they_were():
    opened_some = set()
    for format in FORMATS:
        for data in (data for example in format.examples() for data in example.values()):
            for number, (opened, closed) in enumerate(CONTAINERS):
                if data and (parts := opened(data)):
                    opened_some.add(number)
                    assert opened(closed(parts)) == parts
    assert opened_some == set(range(len(CONTAINERS)))


def test_most_changes_change_something():
    data = FORMATS[0].examples()[0]
    whole = next(iter(data.values()))
    assert sum(mutate(whole, random.Random(number)) != whole for number in range(100)) > 80
