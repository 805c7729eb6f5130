"""The command line, called inside this process."""

from typer.testing import CliRunner

from biasscope import cli

SMALL = ["--dataset", "occupations", "--limit", "24"]


def biasscope(*arguments: object, ok: bool = True) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a call inside this process."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "80"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert not ok or result.exit_code == 0, result.stderr
    return result.exit_code, result.stdout, result.stderr
