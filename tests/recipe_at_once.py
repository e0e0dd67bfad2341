"""`ouroboros recipe` whose stages start at once, see warm.py: `python -m recipe_at_once recipe ...`; and, without that
word, what a stage runs: the program that ends with the one that started it.
"""

import sys
from pathlib import Path

import warm

from ouroboros_lib.cli.main import main
from ouroboros_lib.training import children, recipe, validation

validation.INFERENCE_STEPS = 1

if __name__ == "__main__":
    if sys.argv[1] == "recipe":
        recipe.program = lambda arguments: warm.command(["recipe_at_once", *arguments])
        main(sys.argv[1:])
    else:
        exec(children.PROGRAM.format(root=str(Path(recipe.__file__).parents[2]), grace=children.GRACE))
