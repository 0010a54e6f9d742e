"""Entry point: what was typed becomes a call of a command, and an error one message and an exit status."""

from __future__ import annotations

import argparse
import ast
import inspect
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any, NoReturn

from . import _commands
from ._commands import COMMANDS, typed
from ._options import (
    Groups,
    add_options,
    each_once,
    options_of,
    read_configuration,
    write_configuration,
)

EXPECTED = (FloatingPointError, ValueError, KeyError, TypeError, OSError)
DESCRIPTION = """\
Learn representations of single cells without labels, and use them.

Start with the demo, which needs no data and no network:

  scssl demo

Then on your own cells (an .h5ad file with raw counts, or log-normalised values):

  scssl train cells.h5ad --out my_model
  scssl embed cells.h5ad --model my_model --out embedded.h5ad

The embedding is in .obsm["X_ssl"] of the new file, ready for scanpy:

  sc.pp.neighbors(adata, use_rep="X_ssl")
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    argv
        Arguments after the name of the program; those of the process by default.

    Returns
    -------
    int
        0 on success, 2 when the input is at fault, 130 after Ctrl-C, 143 after SIGTERM.

    Examples
    --------
    >>> from scssl.cli import main
    >>> main(["embed", "absent.h5ad", "--model", "model", "--out", "out.h5ad"])
    2
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    # Read when PyTorch is loaded: threads that spin while they wait make training ten times slower where
    # other programs use the cores too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with warnings.catch_warnings():
        if not debug:
            warnings.showwarning = _show_warning
        previous = signal.getsignal(signal.SIGTERM)
        try:
            if previous is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, _terminate)
            name, arguments = parse(words)
            if name is not None:
                call(name, arguments)
        except EXPECTED as error:
            if debug:
                raise
            print(f"scssl: error: {_as_options(str(error))}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            if debug:
                raise
            print("scssl: interrupted", file=sys.stderr)
            return 130
        except _Terminated:
            print("scssl: terminated", file=sys.stderr)
            return 128 + signal.SIGTERM
        finally:
            if previous is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, previous)
    return 0


def call(name: str, arguments: dict[str, Any]) -> None:
    """Call a command, with what follows without a name by position."""
    parameters = inspect.signature(COMMANDS[name].function).parameters
    rest = [one for one, kind in parameters.items() if kind.kind is kind.VAR_POSITIONAL]
    by_position = []
    if rest:
        by_position = [arguments.pop(next(iter(parameters))), *arguments.pop(rest[0], ())]
    getattr(_commands, name.replace("-", "_"))(*by_position, **arguments)


class _Terminated(SystemExit):
    """SIGTERM, which ends a command as Ctrl-C does: nothing is left half-written."""


def _terminate(number: int, frame: Any) -> None:
    raise _Terminated(128 + number)


def parse(words: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """Name of the command and the arguments that were given; no name where there is nothing to run."""
    parser, parsers = _parsers(words)
    if not words:
        parser.print_help()
        return None, {}
    name = words[0]
    if name not in COMMANDS:
        if name not in parser._option_string_actions:
            known = [*COMMANDS, *parser._option_string_actions]
            kind = "option" if name.startswith("-") else "command"
            raise ValueError(
                f"scssl has no {kind} {name}.{_hint(words, name, known)} To see what it has: `scssl --help`"
            )
        parser.parse_args(words)
        return None, {}
    command = COMMANDS[name]
    path, printing = typed(words, "--config"), "--print-config" in words
    configured = {} if path is None else read_configuration(path)
    known = [*(f"--{key.replace('_', '-')}={value}" for key, value in configured.items()), *words]
    groups: Groups = {"": options_of(command.function)}
    if command.options is not None:
        groups = each_once(groups | command.options(known))
    options = {key: option for group in groups.values() for key, option in group.items()}
    for title, group in groups.items():
        place = parsers[name].add_argument_group(title) if title else parsers[name]
        # Not typed need be what the configuration has; nor anything where that is all that is asked for.
        # What the API itself needs, the command asks for.
        add_options(place, group, optional=options if printing or title else configured)

    namespace = argparse.Namespace()
    for key in configured.keys() & options.keys():
        try:
            setattr(namespace, key, options[key].read(configured[key]))
        except ValueError as error:
            raise ValueError(f"{path}: {key} {error}.") from error
    flags = parsers[name]._option_string_actions
    wrong = [f"--{key}" for key in configured if key not in options]
    # Before it is said that something is missing, which may be what was mistyped.
    wrong += [
        word for word in words[1:] if word[:2] == "--" and word.partition("=")[0] not in flags
    ]
    if not wrong:
        given, wrong = parser.parse_known_args(words, namespace)
    if wrong:
        raise ValueError(_no_option(words, wrong[0], known, flags))
    arguments = {key: value for key, value in vars(given).items() if key in options}
    if printing:
        print(write_configuration(arguments, groups), end="")
        return None, {}
    return name, arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong, in a line that is not lost behind all that can be typed."""
        self.exit(2, f"scssl: error: {message}. To see what can be typed: `{self.prog} --help`\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "max_help_position": 32})

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return f"--[no-]{action.option_strings[0][2:]}"
        return super()._format_action_invocation(action)


def _parsers(
    words: Sequence[str],
) -> tuple[_Parser, dict[str, _Parser]]:
    """The parser, and those of the commands, without what they read from signatures."""
    # An abbreviation today may be another option tomorrow.
    common: Any = {"formatter_class": _Help, "allow_abbrev": False}
    parser = _Parser(prog="scssl", description=DESCRIPTION, **common)
    parser.add_argument("--version", action="version", version=f"scssl {version('scssl')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    parsers = {}
    for name, command in COMMANDS.items():
        own = commands.add_parser(
            name,
            help=command.summary,
            description=inspect.cleandoc(command.function.__doc__ or "").partition("\nParam")[0],
            usage=f"scssl {name} {command.usage}",
            epilog=command.epilog(words),
            **common,
        )
        own.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if command.options is not None:
            text = "options from a file; what is typed goes first"
            own.add_argument("--config", metavar="FILE.yaml", help=text)
            text = "print such a file, with every option and its default, and do nothing else"
            own.add_argument("--print-config", action="store_true", help=text)
        parsers[name] = own
    return parser, parsers


def _hint(words: Sequence[str], wrong: str, known: Iterable[str]) -> str:
    """What may have been meant instead of a word, as the whole line, where that word was typed."""
    close = get_close_matches(wrong.replace("_", "-"), list(known), n=1)
    if not close:
        return ""
    meant = [re.sub(rf"^{re.escape(wrong)}(?==|$)", close[0], word) for word in words]
    line = close[0] if meant == words else f"`{shlex.join(['scssl', *meant])}`"
    return f" Did you mean {line}?"


def _no_option(words: Sequence[str], wrong: str, known: Sequence[str], flags: Iterable[str]) -> str:
    """Message that there is no such option, with what may have been meant."""
    name, flag = words[0], wrong.partition("=")[0]
    if not flag.startswith("--"):
        return f"There is nothing to do with {wrong!r}. What can be typed: `scssl {name} --help`"
    who, how, hint = f"scssl {name}", name, _hint(words, flag, flags)
    flag = flag.replace("_", "-")
    if name == "train":
        who = typed(known, "--model") or "MaskedAutoencoder"
        others = _commands.models_with(flag)
        how, hint = (
            f"train --model {who}",
            f" Of {', '.join(others)} it is one." if others else hint,
        )
    return f"{who} has no option {flag}.{hint} To see what it has: `scssl {how} --help`"


def _as_options(message: str) -> str:
    """A message of the Python API, with the arguments that it tells to pass as they are typed here."""

    def typed_as(match: re.Match[str]) -> str:
        flag = match[1].replace("_", "-")
        try:
            value = ast.literal_eval(match[2])
        except (ValueError, SyntaxError):
            return match[0]
        if isinstance(value, bool):
            return f"`--{'' if value else 'no-'}{flag}`"
        words = value if isinstance(value, (list, tuple)) else [value]
        return f"`--{flag} {shlex.join('none' if one is None else str(one) for one in words)}`"

    return re.sub(r"`(\w+)=([^`=][^`]*)`", typed_as, message)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Warnings of scssl as one line; those of libraries say nothing to who runs a command."""
    from scssl._errors import ScsslWarning

    if issubclass(category, ScsslWarning):
        print(f"scssl: warning: {_as_options(str(message))}", file=sys.stderr)
