"""The course, the docs and the results as one site that needs no network, no server and no kernel.

Sphinx makes it, with MyST-NB and the book theme: sidebar, contents, search, previous and next. What they lack is here,
a module each. `python -m tools.book OUT` builds; nothing is executed, notebooks are shown as they were saved.
"""
