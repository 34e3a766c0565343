"""The command line, ``python -m convext``: a module a command, with `add_arguments(parser)` and `run(args) -> int`.

A module is imported when its command runs or is helped, so that `doctor` works where the package itself cannot be
imported. The exit status is one of:

    0   done, and nothing is wrong
    1   done, and something is wrong: a fault of the installation, a layer beyond its error bound
    2   the command line itself: an unknown network, a size that is none
    3   something that the command needs is missing: convext's kernels, torchvision, matplotlib
    130 interrupted
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

from convext.cli.failures import DONE, MISSING, WRONG, Missing, Usage

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """A command is the module of its name in this package."""

    summary: str
    needs_convext: bool = True


COMMANDS = {
    "doctor": Command("what is installed, whether it works, and how to repair what does not", needs_convext=False),
    "bench": Command("time a convolution, a pooling or a network against torch"),
    "explain": Command("what every layer of a network is, costs, sees and runs on"),
    "verify": Command("how far every layer of a network is from float64, by torch and by convext"),
    "demo": Command("a trained network reads a handwritten digit from a picture"),
}

_EXIT_STATUS = """\
exit status:
  0    done, and nothing is wrong
  1    done, and something is wrong (doctor: a fault; verify: a layer beyond its bound)
  2    the command line is wrong
  3    something is missing: convext's kernels (see doctor), torchvision, matplotlib
  130  interrupted
"""


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser with the arguments of the chosen command alone: the others' modules need not be imported."""
    parser = argparse.ArgumentParser(
        prog="python -m convext",
        description="Convolutions for PyTorch on kernels of their own.",
        epilog=f"'python -m convext COMMAND --help' has each command's options and examples.\n\n{_EXIT_STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == chosen:
            importlib.import_module(f"convext.cli.{name}").add_arguments(sub)
            sub.epilog = f"{sub.epilog}\n\n{_EXIT_STATUS}" if sub.epilog else _EXIT_STATUS
    return parser


def _run(words: Sequence[str], import_error: BaseException | None) -> int:
    chosen = next((word for word in words if not word.startswith("-")), None)
    if import_error is not None and chosen in COMMANDS and COMMANDS[chosen].needs_convext:
        fault = importlib.import_module("convext.cli.facts").import_fault(import_error)
        raise Missing(f"convext cannot be imported: {fault.what}", "python -m convext doctor")
    parser = _parser(chosen)
    options = parser.parse_args(words)
    if options.version:
        from convext._version import __version__

        print(f"convext {__version__}")
        return DONE
    if options.command is None:
        parser.print_help()
        return DONE
    options.import_error = import_error
    return int(importlib.import_module(f"convext.cli.{options.command}").run(options))


def main(words: Sequence[str] | None = None, *, import_error: BaseException | None = None) -> int:
    """Runs a command and returns its exit status.

    Args:
        words: the command line without the program's name; None for the process's own.
        import_error: what the import of convext raised, if it did; `doctor` alone works then.
    """
    try:
        return _run(sys.argv[1:] if words is None else words, import_error)
    except (Usage, Missing) as failure:
        print(f"python -m convext: {failure}", file=sys.stderr)
        if failure.remedy:
            print(f"  try: {failure.remedy}", file=sys.stderr)
        return WRONG if isinstance(failure, Usage) else MISSING
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # of `| head`; what is left to flush at the end must not raise again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
