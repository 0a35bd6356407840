# SPDX-License-Identifier: Apache-2.0
"""Runs one command: imports only its module, lets fire read the arguments, turns errors into one line."""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import importlib
import inspect
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import monai_ext
from monai_ext.errors import find_input_error, message_of

PROGRAM = "python -m monai_ext"
COMMANDS = {  # name -> module and function of the same name
    "demo": "demo",
    "demo_data": "demo_data",
    "doctor": "doctor",
    "list": "list_bundles",
    "convert": "convert",
    "embed": "embed",
    "dg_matrix": "dg_matrix",
    "compare_experts": "compare_experts",
    "match": "match",
    "track": "track",
    "register": "register",
    "apply": "apply",
    "report": "report",
    "export": "export",
    "pack": "pack",
    "release": "release",
    "fetch": "fetch",
    "cost": "cost",
    "label": "label",
}
INTERRUPTED, CLOSED_PIPE, WRONG_USAGE = 130, 141, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command named first in ``arguments`` (default: the process's own) and return the exit status.

    0: done; 1: the user's input must be mended; 2: wrong arguments; 130: Ctrl-C; 141: the reader of the
    output went away. ``MONAI_EXT_DEBUG=1`` shows tracebacks instead of one line.

    Example:
        >>> main(["--version"])
        0.1.0
        0
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit; point it elsewhere or that flush complains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except Exception as error:
        message = _one_line(error)
        if message is None or os.environ.get("MONAI_EXT_DEBUG"):
            raise
        print(f"error: {message}", file=sys.stderr)
        return 1
    return status


def usage_of(name: str, function: Callable[..., Any]) -> str:
    """Return one line that shows how a command is called: required arguments first, options in brackets."""
    words = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            words.append("[--KNOB VALUE ...]")
        elif parameter.default is inspect.Parameter.empty:
            words.append(parameter.name.upper())
        elif isinstance(parameter.default, bool):
            words.append(f"[--{parameter.name}]")
        else:
            words.append(f"[--{parameter.name} {parameter.name.upper()}]")
    return " ".join([PROGRAM, name, *words])


class _UsageError(Exception):
    """The command line itself is wrong."""


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h", "help"):
        print(_overview())
        return 0
    if name == "--version":
        print(monai_ext.__version__)
        return 0
    try:
        if name not in _commands():
            known = _commands()
            raise _UsageError(f"there is no command {name!r}{_guess(name, known)}; one of: {', '.join(known)}")
        function = getattr(importlib.import_module(f"monai_ext.commands.{COMMANDS[name]}"), COMMANDS[name])
        if {"--help", "-h"} & set(arguments[1:]):
            print(_help_of(name, function))
            return 0
        given = _read_arguments(name, function, arguments[1:])
    except _UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USAGE
    function(**given)
    return 0


def _commands() -> dict[str, str]:
    """Return the commands that are installed."""
    here = Path(__file__).parent
    return {name: module for name, module in COMMANDS.items() if (here / f"{module}.py").is_file()}


def _overview() -> str:
    """List the commands from the source text of their modules: importing eight modules would cost time."""
    lines = [f"usage: {PROGRAM} COMMAND [ARGUMENTS]     (COMMAND --help explains one)", ""]
    for name, module in _commands().items():
        summary, example = _summary_of(module)
        lines += [f"  {name:<10} {summary}", f"  {'':<10}   {example}"]
    return "\n".join(lines)


def _summary_of(module: str) -> tuple[str, str]:
    """Return the first line of a command's docstring and its first example command line."""
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == module)
    lines = (ast.get_docstring(function) or "").splitlines()
    example = next((line.strip() for line in lines if line.strip().startswith(PROGRAM)), f"{PROGRAM} {module}")
    return lines[0] if lines else "", example


def _help_of(name: str, function: Callable[..., Any]) -> str:
    """Show the docstring as it is written; fire's own help reflows it and opens a pager."""
    defaults = [
        f"  --{parameter.name} {parameter.default}"
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default not in (inspect.Parameter.empty, None, False)
    ]
    parts = [f"usage: {usage_of(name, function)}", "", inspect.getdoc(function) or ""]
    if defaults:
        parts += ["", "Defaults:", *defaults]
    return "\n".join(parts)


def _read_arguments(name: str, function: Callable[..., Any], arguments: list[str]) -> dict[str, Any]:
    """Let fire turn words into arguments, without running the command.

    Fire calls first and complains about words that it could not use afterwards; a mistyped option must not
    start minutes of work. So fire gets a recorder with the command's signature, and the command runs later.
    """
    import fire

    recorded: dict[str, Any] = {}
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def recorder(*positional: Any, **named: Any) -> None:
        bound = inspect.signature(function).bind(*positional, **named)
        recorded.update(zip(names, bound.args, strict=False), **bound.kwargs)

    texts = {
        parameter.name: _as_text
        for parameter in inspect.signature(function).parameters.values()
        if str(parameter.annotation) in ("str", "str | None")
    }
    if "--" in arguments:
        raise _UsageError(f"{name}: '--' is not an argument; usage: {usage_of(name, function)}")
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            fire.Fire(fire.decorators.SetParseFns(**texts)(recorder), command=arguments, name=f"{PROGRAM} {name}")
    except fire.core.FireExit as exit_:
        raise _UsageError(_explain(name, function, exit_)) from None
    return recorded


def _as_text(value: str) -> str | None:
    """Keep a name such as ``001`` as text; fire would make the number 1 of it."""
    return None if value == "None" else value


def _explain(name: str, function: Callable[..., Any], exit_: Any) -> str:
    message = exit_.trace.elements[-1].ErrorAsStr()
    names = list(inspect.signature(function).parameters)
    word = message.rsplit(" ", 1)[-1]
    if "no value for the required argument" in message:
        message = f"the argument {word} is missing"
    elif "Could not consume arg" in message:
        message = f"unknown argument {word}{_guess(word.lstrip('-').split('=')[0], names, '--')}"
    return f"{name}: {message}; usage: {usage_of(name, function)}"


def _guess(word: str, known: Sequence[str] | dict[str, str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


def _one_line(error: Exception) -> str | None:
    """Return what the user can mend, or None for an error of ours."""
    wanted = find_input_error(error)
    if wanted is not None:
        return message_of(wanted)
    if isinstance(error, ImportError) and "pip install" in str(error):
        return " ".join(str(error).split())
    return None
