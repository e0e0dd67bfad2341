"""Damaged files for everything that this library reads: either a sound result comes out, or an InputError of one line.

    mutations.py             what is done to a sound file, drawn by a seeded random generator
    formats.py and beside    the formats: sound files, how they are read, what a sound result is
    running.py               one input against its time and memory; many of them in processes that may crash
    test_fuzz.py             a little of it, by Hypothesis, in every run of the tests
    python -m fuzz           as much as there is time for: `make fuzz MINUTES=20`
"""
