"""Two commands that write into one folder at a time: both end well, or the second is told of the first. Nothing is
lost, and no two runs are mixed."""

import subprocess

import pytest
import warm
from writing_commands import COMMANDS, files, make_inputs, served, words

# those that train have tests of their own; generate writes as export does, and takes long
PAIRS = [command for command in COMMANDS if command not in ("train", "recipe", "generate")]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs") / "given")


@pytest.fixture(scope="module")
def server():
    fuel = served()
    yield fuel.url
    fuel.close()


@pytest.mark.parametrize("command", PAIRS)
def test_two_at_a_time(inputs, server, tmp_path, command):
    def start(out):
        return warm.run(["ouroboros_lib", *words(command, inputs, out, server)], text=True, stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE)

    pair = [start(tmp_path / "out"), start(tmp_path / "out")]
    errors = [run.communicate()[1] for run in pair]
    codes = sorted(run.returncode for run in pair)
    assert codes in ([0, 0], [0, 2]), errors
    if codes == [0, 2]:
        assert command in ("evaluate", "data shards")
        assert any("writes there" in error or "there are two objects" in error for error in errors), errors
    alone = start(tmp_path / "alone")
    assert alone.communicate() and alone.returncode == 0
    together, alone = ({name: data for name, data in files(tmp_path / out).items() if name != "figures.json"}
                       for out in ("out", "alone"))  # which says when it was made
    assert together == alone
