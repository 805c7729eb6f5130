"""The `biasscope` command: finds its subcommands as files in `commands/`, and turns errors into exit
codes.
"""

import ast
import importlib
import inspect
import os
import pkgutil
import signal
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from biasscope import __version__, commands, console, options, usage
from biasscope.engine.errors import BiasScopeError

KEPT = "what was measured is kept, the same command goes on from there (with --no-cache it starts again)"

PANELS = ("Prepare", "Measure", "Conclude", "Manage")
"""The groups of commands in the help, in the order of use; each command's file says its own."""


SLOW = ("Measure", "Conclude")
"""Those whose commands take more than a second before they have anything to say."""


def stub(name: str) -> TyperCommand:
    """A command as the list of commands shows it: panel, first line and first example, read without importing
    it.
    """
    file = name.replace("-", "_")
    tree = ast.parse((Path(commands.__path__[0]) / f"{file}.py").read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == file)
    constants = {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("PANEL", "EXAMPLES")
    }
    line = (ast.get_docstring(function) or "").split("\n")[0]
    return TyperCommand(
        name, help=f"{line} Example: {constants['EXAMPLES'][0]}", rich_help_panel=constants["PANEL"]
    )


def in_order(names: Iterable[str]) -> list[str]:
    """The commands by panel, in the order in which they are used."""
    stubs = {name: stub(name) for name in names}
    return sorted(stubs, key=lambda name: (PANELS.index(str(stubs[name].rich_help_panel)), name))


class Command(TyperCommand):
    """A subcommand, which refuses options that would do nothing."""

    def invoke(self, ctx: Any) -> Any:
        """The command's result. UsageError where an option that was typed does nothing."""
        typed = {name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE"}
        usage.refuse_idle(str(self.name), ctx.params, typed)
        return super().invoke(ctx)


def load(name: str) -> Any:
    """The command of that name, its module imported; examples stand before its options."""
    file = name.replace("-", "_")
    module = importlib.import_module(f"biasscope.commands.{file}")
    function = options.flatten(getattr(module, file))
    text = "\n\n".join([inspect.cleandoc(function.__doc__ or ""), "Examples:", *module.EXAMPLES])
    app = typer.Typer(add_completion=False)
    app.command(name, cls=Command, help=text)(function)
    return typer.main.get_command(app)


class Folder(TyperGroup):
    """A command group that is a folder: each file is a subcommand, imported only when it is called or asked
    for help.
    """

    def __init__(self, **settings: Any) -> None:
        files = pkgutil.iter_modules(commands.__path__)
        names = in_order(file.name.replace("_", "-") for file in files)
        super().__init__(**{**settings, "commands": {name: stub(name) for name in names}})

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order of their panels."""
        return list(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The real command in place of the stub that the list of commands shows."""
        name, stub, rest = super().resolve_command(ctx, args)
        if name and getattr(stub, "rich_help_panel", None) in SLOW:
            console.greet(name, args)
        return name, load(name) if name and stub else stub, rest

    def invoke(self, ctx: Any) -> Any:
        """The command's result, or the exit code that its error has."""
        try:
            return super().invoke(ctx)
        except BiasScopeError as error:
            if ctx.meta.get("biasscope.debug"):
                traceback.print_exception(error)
            console.error(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as stopped:
            code = getattr(stopped, "code", 130)
            if code == 130:  # at SIGTERM its handler has said so
                console.error(f"Ctrl-C; {KEPT}", "stopped")
            raise typer.Exit(code) from None
        except OSError as problem:
            raise typer.Exit(_stdout_failed(problem)) from None

    def make_context(self, *args: Any, **settings: Any) -> Any:
        """The context; help is written while it is made."""
        try:
            return super().make_context(*args, **settings)
        except OSError as problem:
            raise typer.Exit(_stdout_failed(problem)) from None


def _stdout_failed(problem: OSError) -> int:
    """The exit code where stdout failed (its reader has left, it is full); any other error is a bug and goes
    on.
    """
    code = console.unwritable_stdout(problem)
    if code is None:
        raise problem
    return code


def terminated(_signal: int, _frame: Any) -> None:
    """Leave through every `finally`, with the exit code of SIGTERM."""
    os.write(2, f"stopped: SIGTERM; {KEPT}\n".encode())  # a handler must not enter buffered streams
    raise SystemExit(143)


def interrupted(_signal: int, _frame: Any) -> None:
    """Acknowledge Ctrl-C at once, and leave as soon as the current pass of the model is over."""
    os.write(2, b"\nstopping after the present pass ...\n")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise KeyboardInterrupt


app = typer.Typer(
    cls=Folder,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def versions() -> str:
    """What a bug report needs: versions of everything that decides numbers, Python and the system."""
    import platform

    from biasscope.engine.store import runs

    facts = runs.versions() | {"system": f"{platform.system()} {platform.machine()}"}
    return "\n".join(f"{name} {version}" for name, version in facts.items())


@app.callback(invoke_without_command=True)
def biasscope(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version; with -v also those of the libraries")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="With --version: what a bug report needs")
    ] = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="No colours, anywhere in the line; as NO_COLOR=1")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Where inside a causal language model social bias sits, how certain that is, and what it costs to
    remove.

    Exit codes: 0 ok, 1 failed, 2 usage, 3 finished with parts missing, 4 bad input, 5 needs the network, 6
    beyond --fail-if, 11 locked, 12 cache damaged, 130 Ctrl-C, 143 SIGTERM.
    """
    if version:
        typer.echo(versions() if verbose else f"biasscope {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Run the command line and exit."""
    console.hush_environment()
    console.without_colour(sys.argv)
    usage.warn_of_unknown(os.environ)
    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGINT, interrupted)
    console.write_in_any_encoding()
    try:
        app(prog_name="biasscope")
    except SystemExit as leaving:
        # rich leaves with 1 where the reader has what it wanted (`| head -1`)
        if isinstance(leaving.__context__, BrokenPipeError):
            leaving.code = 0
        raise
    finally:
        try:
            sys.stdout.flush()
        except OSError as problem:
            sys.exit(_stdout_failed(problem))
