"""The command line: `ouroboros ...` or `python -m ouroboros_lib ...`.

Commands import what they need when they run, so that --help is quick. Bad input ends in one line on stderr and exit
code 2, an interrupt in one line and 130; results appear only when they are complete.
"""

import gc
import os
import sys
import threading
from collections.abc import Sequence
from typing import Annotated

import typer

from .. import __version__
from ..errors import InputError
from ..files import disk_trouble
from ..speed.threads import prepare
from . import options
from .app import serve
from .convert import convert_app
from .data import data_app
from .doctor import doctor
from .evaluation import evaluate, tables
from .export import export, view
from .generate import generate
from .training import recipe, train

# typer brings its own copy of click in some versions and uses the package in others: find its exceptions through typer
_UsageError = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")
_ClickException = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(name="ouroboros", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
for command in (doctor, generate, export, view, train, recipe, evaluate, tables):
    app.command()(command)
app.command("app")(serve)
app.add_typer(data_app, name="data")
app.add_typer(convert_app, name="convert")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"ouroboros {__version__}")
        raise typer.Exit


@app.callback()
def ouroboros(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                                    help="Print the version and leave.")] = False) -> None:
    """Image-to-3D by a recursion of multi-view diffusion and 3D reconstruction."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0, 1 (done in part, or doctor finds something missing), 2 or
    130."""
    options.own_process = arguments is None
    prepare()
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # processes that this one starts import nothing from its folder
    threading.excepthook = _in_a_thread
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: no result may take its number
            setattr(sys, name, open(os.devnull, "w"))
    for stream in (sys.stdout, sys.stderr):  # names of files that the console's encoding has no letters for
        stream.reconfigure(errors="backslashreplace")
    try:
        code = app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="ouroboros",
                   standalone_mode=False)
        _deliver()
    except InputError as error:
        code = _complain(str(error))
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # nothing was asked for: newer typer raises the help text
            print(error.format_message(), file=sys.stderr)
            sys.exit(2)
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        code = _complain(error.format_message() + hint) if error.format_message() else 2
    except _ClickException as error:
        code = _complain(error.format_message())
    except BrokenPipeError:  # whoever reads has seen enough
        code = 1
    except OSError as error:  # of the disk, of permissions, of names that are too long
        code = _complain(disk_trouble(error))
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:  # newer typer turns Ctrl-C into this code by itself
        print("\ninterrupted, nothing was left half-written", file=sys.stderr)
    if options.own_process and "triton" not in sys.modules:  # whose bindings would print what they find left over
        gc.freeze()  # Python would look for garbage in all that torch brought, for a second or two, before it leaves
    sys.exit(code or 0)


def _in_a_thread(problem: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread of its own, and raises what the disk refuses in ours as well."""
    if not isinstance(problem.exc_value, OSError):
        threading.__excepthook__(problem)


def _deliver() -> None:
    """Bring what was printed to where it goes. Raises OSError where that cannot be."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again when it ends
        raise


def _complain(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
