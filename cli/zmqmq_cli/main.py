"""Entry point: finds the command, runs it, turns errors into exit codes.

`zmqmq --help` must be quick, so nothing here imports a command, the client or rich: a command's
module is loaded when the command is named. The table below therefore says twice what each one is
for; a test compares it with the modules.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any, Final, cast

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from zmqmq.errors import ZmqmqError
from zmqmq_cli.exits import Exit, Verdict, verdict
from zmqmq_cli.options import FORMATS, Group, with_globals
from zmqmq_cli.output import Output

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "broker": ("zmqmq_cli.broker", "Run a broker in the foreground."),
    "topics": ("zmqmq_cli.topics", "Create, list, describe, alter and delete topics."),
    "produce": ("zmqmq_cli.produce", "Send lines of files or stdin, a record each."),
    "consume": ("zmqmq_cli.consume", "Print records."),
    "overview": ("zmqmq_cli.overview", "Show topics, partitions, offsets, groups and their lag."),
    "ping": ("zmqmq_cli.ping", "Ask a broker whether it serves."),
    "cluster": (
        "zmqmq_cli.cluster",
        "Show the cluster; move partitions and leaders between brokers.",
    ),
    "verify": ("zmqmq_cli.verify", "Compare the replicas of partitions."),
    "inspect": ("zmqmq_cli.inspect", "Read a data directory without a broker; verify, repair."),
    "bench": ("zmqmq.bench.cli", "Measure a running broker."),
    "config": ("zmqmq_cli.config", "Show the broker's settings and where they come from."),
    "demo": ("zmqmq_cli.demo", "See it work: a broker, real lines, in and out, verified."),
}
"""Name to the module that holds `app`, and what it is for."""

# Public names for both the typer that has click inside and the one that uses click.
_USAGE_ERROR, _CLICK_ERROR = cast("Any", typer.BadParameter.__mro__[1:3])


class Commands(Group):
    """The commands, each loaded when it is asked for."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # narrower
        """Every name, in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(  # type: ignore[override]  # a narrower context
        self, ctx: typer.Context, cmd_name: str
    ) -> TyperCommand | TyperGroup | None:
        """The command itself, or None."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = cast("TyperCommand | TyperGroup", typer.main.get_command(module.app))
        command.name = cmd_name
        return with_globals(command)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """List them without loading them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, doc) for name, (_, doc) in COMMANDS.items()])


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(ctx: typer.Context, *, value: bool) -> None:
    if value:
        from importlib.metadata import version  # slow, and rarely wanted

        Output().text(f"zmqmq {version('zmqmq')}")
        ctx.exit()


@app.callback()
def root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """A durable message queue on ZeroMQ sockets."""
    del version


def main() -> None:
    """The console script `zmqmq`."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run one command line; the exit code."""
    command = with_globals(cast("TyperGroup", typer.main.get_command(app)))
    try:
        with command.make_context("zmqmq", list(argv) or ["--help"]) as ctx:
            result = command.invoke(ctx)
        sys.stdout.flush()
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more on its way out, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except _CLICK_ERROR as error:
        said = _of_command_line(error)
    except (ZmqmqError, OSError) as error:
        said = verdict(error)
    else:
        return result if isinstance(result, int) else Exit.OK
    Output(_format_asked_for(argv)).error(
        said.message, code=said.code, hint=said.hint, retriable=said.retriable
    )
    return said.exit


def _of_command_line(error: Any) -> Verdict:  # noqa: ANN401
    # Where typer would answer a noun alone with its whole help, all nouns answer alike.
    is_bare = type(error).__name__ == "NoArgsIsHelpError"
    message = "missing command" if is_bare else error.format_message()
    ctx = getattr(error, "ctx", None)
    hint = f"see {ctx.command_path} --help" if ctx is not None else ""
    return Verdict(Exit.USAGE, "USAGE", message[:1].lower() + message[1:].rstrip("."), hint)


def _format_asked_for(argv: list[str]) -> str:
    """The output format, also of a command line that could not be understood; the last counts."""
    found = "table"
    for before, word in zip(["", *argv], argv, strict=False):
        if before in {"-O", "--output"}:
            value = word
        elif word.startswith("--output="):
            value = word.partition("=")[2]
        else:
            value = word.removeprefix("-O") if word.startswith("-O") else ""
        if value in FORMATS:
            found = value
    return found


if __name__ == "__main__":
    main()
