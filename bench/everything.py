"""The whole benchmark in one command: every part, whole networks, subnormals, runtimes, then the report.

``python -m bench.everything`` takes about two hours on two cores and goes on where it was interrupted;
``--seconds 500`` stops after so long. ``--only REGEX`` names pieces (``--list`` shows them), ``--report`` only puts
together what is there, in the README too.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

from bench import combined, store, summary
from bench.parts import PARTS

# What is not a part: a module of its own with the same options.
MODULES = ("models", "subnormals", "runtimes")


def commands(quick: bool) -> dict[str, list[str]]:
    """The modules and arguments that measure each piece, in order."""
    more = ["--quick"] if quick else []
    return {name: ["bench.part", name, *more] for name in PARTS} | {name: [f"bench.{name}", *more] for name in MODULES}


def runnable(piece: str) -> bool:
    """Whether what the piece needs is installed: the runtimes are a choice."""
    if piece != "runtimes":
        return True
    wanted = ("onnx", "onnxscript", "onnxruntime", "openvino")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        print(f"runtimes: left out, for want of {', '.join(missing)} (pip install -r requirements-runtimes.txt)")
    return not missing


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.everything", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="only the pieces whose name matches")
    parser.add_argument("--into", type=Path, metavar="DIR", help="default: bench/results (build/bench-quick)")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after so long; the next run goes on")
    parser.add_argument("--again", action="store_true", help="discard what is measured already")
    parser.add_argument("--quick", action="store_true", help="a few cases, short times, into a folder of its own")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the report of what is there")
    parser.add_argument("--list", action="store_true", help="list the pieces and stop")
    options = parser.parse_args()
    options.into = store.folder(options.quick, options.into)
    return options


def run(options: argparse.Namespace) -> bool:
    """Each piece in a process of its own. Returns whether there was time for all."""
    deadline = store.Deadline(options.seconds)
    for piece, command in commands(options.quick).items():
        if not re.search(options.only, piece) or not runnable(piece):
            continue
        if deadline.passed:
            return False
        seconds = [] if deadline.left is None else ["--seconds", f"{deadline.left:.0f}"]
        again = ["--again"] if options.again else []
        print(f"== {piece}", flush=True)
        start = time.monotonic()
        whole = [sys.executable, "-m", *command, "--into", str(options.into), *seconds, *again]
        subprocess.run(whole, check=True)
        print(f"== {piece}: {time.monotonic() - start:.0f} s", flush=True)
    return not deadline.passed


def main() -> int:
    options = arguments()
    if options.list:
        print("\n".join([*(f"{part.name:24} {part.title}" for part in PARTS.values()), *MODULES]))
        return 0
    finished = options.report or run(options)
    try:
        written = combined.write(options.into)
    except FileNotFoundError as error:
        print(error)
        return 1 if options.report else 0
    if options.into == store.RESULTS:
        summary.update(summary.README, options.into)
    print("\n".join(f"wrote {path}" for path in written))
    if not finished:
        print("Out of time: the same command again goes on.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
