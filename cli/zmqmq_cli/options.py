"""The global options: they stand before or after any command, and mean the same in each place."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Annotated, Any, Final, cast

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from zmqmq.errors import ConfigError
from zmqmq.model.units import parse_ms

FORMATS: Final = ("table", "json", "jsonl")
GLOBAL_NAMES: Final = ("servers", "output", "quiet", "timeout")
EVERYWHERE: Final = "Options of every command"
_META: Final = "zmqmq"


@dataclass(slots=True)
class Globals:
    """What the global options of one invocation say."""

    servers: str | None = None
    """None: `ZMQMQ_SERVERS`, else the broker's default port on this machine."""
    output: str = "table"
    quiet: bool = False
    timeout_ms: int | None = None


def globals_of(ctx: typer.Context) -> Globals:
    """Those of the invocation that this context belongs to."""
    # `meta` is one dictionary for the whole chain of contexts, so an option noted by the root is
    # seen in the command; `obj` typer uses itself.
    return cast("Globals", ctx.meta.setdefault(_META, Globals()))


def _remember(ctx: typer.Context, param: typer.CallbackParam, value: str | None) -> str | None:
    # None is an option that was not given here: what one further out said must stand.
    if value is None:
        return None
    chosen = globals_of(ctx)
    if param.name == "servers":
        chosen.servers = value
    elif param.name == "output":
        chosen.output = choice(value, FORMATS, "-O/--output")
    else:
        chosen.timeout_ms = duration(value, "--timeout")
    return value


def _remember_quiet(ctx: typer.Context, *, value: bool) -> bool:
    if value:
        globals_of(ctx).quiet = True
    return value


def _declared(
    servers: Annotated[
        str | None,
        typer.Option(
            "-s",
            "--servers",
            metavar="HOST:PORT,…",
            help="Brokers to connect to; else $ZMQMQ_SERVERS, else 127.0.0.1:5755.",
            callback=_remember,
            expose_value=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-O",
            "--output",
            metavar="table|json|jsonl",
            help="What stdout gets.",
            callback=_remember,
            expose_value=False,
        ),
    ] = None,
    quiet: Annotated[  # noqa: FBT002  a flag of the command line
        bool,
        typer.Option(
            "-q",
            "--quiet",
            help="No talk on stderr, only errors.",
            callback=_remember_quiet,
            expose_value=False,
        ),
    ] = False,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            help="How long to wait for a connection (default 3s) or an answer (30s).",
            callback=_remember,
            expose_value=False,
        ),
    ] = None,
) -> None:
    """Never called: typer reads the options off the signature."""


class _AsGiven:
    """The conversion of a parameter that is text already: none.

    typer has pydantic convert every value, even text to text, and importing pydantic takes a
    tenth of a second: more than all the rest of a short command.
    """

    def coerce(self, value: object, param: object, ctx: object) -> object:
        del param, ctx
        return value


class Command(TyperCommand):
    """A command whose help keeps its own options apart from those of every command."""

    def get_help_option(self, ctx: Any) -> Any:  # noqa: ANN401
        """`--help`, which is made where the other options are not."""
        return _take_as_given(super().get_help_option(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ANN401  click's, by two names
        """`[OPTIONS] TOPIC [FILE]...`."""
        del ctx
        return ["[OPTIONS]", *(usage_of(p) for p in self.params if is_argument(p))]

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """The sections of the help behind the text."""
        write_params(self, ctx, formatter)


class Group(TyperGroup):
    """Commands under one noun; an unknown one is answered with the nearest."""

    def get_help_option(self, ctx: Any) -> Any:  # noqa: ANN401
        """`--help`, which is made where the other options are not."""
        return _take_as_given(super().get_help_option(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """The commands first: they are what one looks for."""
        self.format_commands(ctx, formatter)
        write_params(self, ctx, formatter)

    def resolve_command(  # type: ignore[override]  # a narrower context
        self, ctx: typer.Context, args: list[str]
    ) -> tuple[str | None, Any, list[str]]:
        """As the base class, but for unknown commands."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
            ctx.fail(f"no such command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)


def _take_as_given(param: Any) -> Any:  # noqa: ANN401
    if hasattr(param, "_runtime_param"):  # older typers have none, and need none
        setattr(param, "_runtime_param", _AsGiven())  # noqa: B010
    return param


def is_argument(param: Any) -> bool:  # noqa: ANN401
    """Whether it stands without a name in front."""
    return bool(param.param_type_name == "argument")


def usage_of(argument: Any) -> str:  # noqa: ANN401
    """An argument as the usage line shows it."""
    name = str(argument.metavar)
    shown = name if argument.required else f"[{name}]"
    return f"{shown}..." if argument.nargs == -1 else shown


def write_params(command: TyperCommand | TyperGroup, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
    """What a command takes, in sections."""
    rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], EVERYWHERE: []}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is None:
            continue
        if is_argument(param):
            rows["Arguments"].append((usage_of(param), getattr(param, "help", None) or ""))
        else:
            everywhere = param.name in GLOBAL_NAMES or param.name == "help"
            rows[EVERYWHERE if everywhere else "Options"].append(record)
    for title, lines in rows.items():
        if lines:
            with formatter.section(title):
                formatter.write_dl(lines)


def with_globals(command: TyperCommand | TyperGroup) -> TyperCommand | TyperGroup:
    """The command, and each one below it, taking the global options too."""
    taken = {name for param in command.params for name in param.opts}
    for param in _global_params():
        # The benchmark may declare some of them itself.
        if not taken & set(param.opts):
            command.params.append(param)
    for param in command.params:
        _take_as_given(param)
    if isinstance(command, TyperGroup):
        for inner in command.commands.values():
            with_globals(cast("TyperCommand", inner))
    return command


def _global_params() -> list[Any]:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(_declared)
    return [*typer.main.get_command(app).params]


def choice(value: str, allowed: tuple[str, ...], name: str) -> str:
    """The value, if it is one of those; a usage error with the nearest of them otherwise."""
    if value in allowed:
        return value
    near = difflib.get_close_matches(value, allowed, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise typer.BadParameter(f"{value!r} is none of {', '.join(allowed)}{hint}", param_hint=name)


def number(value: str, name: str, *, least: int = 0) -> int:
    """A whole number from the command line."""
    try:
        result = int(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r} is not a whole number", param_hint=name) from None
    if result < least:
        raise typer.BadParameter(f"{result} is too small; the least is {least}", param_hint=name)
    return result


def duration(value: str, name: str) -> int:
    """Milliseconds, of `10s` and the like."""
    try:
        result = parse_ms(value)
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint=name) from None
    if result <= 0:
        raise typer.BadParameter(f"{value!r} is no time at all", param_hint=name)
    return result
