"""The table of `generate`'s seconds, and what is refused."""

import pytest

from tools.startup import HERE, STAGES, main, table, timed


def run(one, recursion):
    return {"one": one, "two": 2 * one, "cpu": 2 * one, "recursion": recursion, "second": recursion - 1, "load": 1.0,
            "help": 0.25, "refused": 1.5, "missing": 0.5} | dict.fromkeys(STAGES, 0.5)


def test_medians_and_the_ratios_of_neighbouring_runs():
    before, now = [run(16.0, 8.0), run(20.0, 8.0), run(30.0, 9.0)], [run(12.0, 8.0), run(10.0, 8.0), run(18.0, 9.0)]
    rows = {row[0]: row[1:] for row in (line.strip("| ").split(" | ") for line in table(before, now).splitlines()[2:])}
    assert rows["the whole command, one picture"] == ["20.00", "12.00", "0.60"]
    assert rows["the same in seconds of a core"] == ["40.00", "24.00", "0.60"]
    assert rows["recursion"] == ["8.00", "8.00", "1.00"] and rows["its recursion"] == ["7.00", "7.00", "1.00"]
    assert rows["whole / recursion"] == ["2.50", "1.50", "0.60"]
    assert rows["the rest: Python, imports, cutting out"] == ["9.50", "1.50", "0.27"]
    assert rows["the second picture"] == ["20.00", "12.00", "0.60"]


def test_one_line_for_what_is_no_working_tree_and_for_a_command_that_fails(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path)])
    assert caught.value.code == 2 and capsys.readouterr().err.startswith(f"error: {tmp_path}: no working tree")
    assert 0 < timed(HERE, 2, "generate") < 60
    with pytest.raises(ValueError, match="generate ended with 2, expected 0: error: Missing argument"):
        timed(HERE, 0, "generate")
