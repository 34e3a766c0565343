"""The CUDA operators under compute-sanitizer: ``make cuda-sanitize``, or ``python -m tests.cuda_sanitizer``.

Runs every operator on the small cases of cuda_cases.py, forward and backward, under each of the sanitizer's tools, and
says what each found. Tensors are carried to the GPU (cuda_carried.py), so that nearly all kernels that run there are
convext's; torch allocates each of them by itself, so that what lies beside a tensor belongs to nobody.

Ends with 0 where every tool ran and found nothing, 1 where one found something or failed, and 2 where none can run:
no compute-sanitizer, no GPU, or a device that the tool refuses, as virtual machines may have.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.cuda_carried import absence

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# What a process ends with in which a tool has found something; no other part of it ends so.
FOUND = 99
RAN = "all operators have run"


class Verdict(NamedTuple):
    """What came of a tool: one of "clean", "found", "refused", "failed", and a sentence."""

    kind: str
    text: str


def calls() -> None:
    """Every operator, forward and backward, in every floating type, and integers where there are any."""
    import torch

    from tests import cuda_carried
    from tests.cuda_cases import CONVOLUTIONS, OTHERS, image, there_and_back
    from tests.reference import FLOATS, OPERATORS, call, operands

    cuda_carried.load()
    for case in CONVOLUTIONS:
        for operator in OPERATORS:
            problem = case.transposed if operator == "dgrad" else case
            for dtype in (*FLOATS, torch.int32):
                call(operator, problem, operands(operator, problem, dtype, "integers", 0))
    for function in OTHERS.values():
        for dtype in FLOATS:
            for channels_last in (False, True):
                x = image(dtype, channels_last)
                there_and_back(function, x)
                with torch.no_grad():
                    function(x)
    torch.func.jvp(OTHERS["max pool"], (x,), (x,))
    torch.cuda.synchronize()
    print(f"{RAN}: {sum(cuda_carried.calls.values())} calls of {len(cuda_carried.calls)} operators")


def verdict(returncode: int, output: str) -> Verdict:
    """What a tool's status and output mean."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", output)
    said = f": {summary[1]}" if summary else ""
    if re.search("device not supported|unsupported device|LibraryNotLoaded|not supported on this", output, re.I):
        return Verdict("refused", "the tool refuses this device; nothing was checked")
    if returncode == FOUND:
        return Verdict("found", f"the tool reports errors{said}")
    if returncode != 0:
        return Verdict("failed", f"the process ended with {returncode} before all operators had run{said}")
    if RAN not in output:
        return Verdict("failed", "the process ended well, and not all operators had run")
    return Verdict("clean", f"no error{said}")


def status(verdicts: dict[str, Verdict]) -> int:
    """The exit status of a run."""
    kinds = {v.kind for v in verdicts.values()}
    if kinds & {"found", "failed"}:
        return 1
    return 2 if "refused" in kinds else 0


def sanitizer() -> str | None:
    """Of CUDA_HOME, or on PATH."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    beside = f"{home}/bin{os.pathsep}{home}/compute-sanitizer" if home else None
    return (shutil.which("compute-sanitizer", path=beside) if beside else None) or shutil.which("compute-sanitizer")


def under(tool: str, program: str, logs: Path, seconds: float) -> Verdict:
    command = [
        *(program, "--tool", tool, "--error-exitcode", str(FOUND), "--target-processes", "all"),
        *(sys.executable, "-m", "tests.cuda_sanitizer", "--calls"),
    ]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    log = logs / f"{tool}.txt"
    with log.open("w") as file:
        try:
            result = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return Verdict("failed", f"stopped after {seconds:.0f} s; the output is in {log}")
    found = verdict(result.returncode, log.read_text(errors="replace"))
    return found if found.kind == "clean" else Verdict(found.kind, f"{found.text}; the output is in {log}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cuda_sanitizer", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tool", nargs="+", default=list(TOOLS), choices=TOOLS)
    parser.add_argument("--seconds", type=float, default=130.0, metavar="S", help="for each tool (default: 130)")
    parser.add_argument("--calls", action="store_true", help="only what is run under the tools")
    options = parser.parse_args()
    missing, program = absence(), sanitizer()
    if missing is None and program is None and not options.calls:
        missing = "no compute-sanitizer in CUDA_HOME or on PATH; it comes with the CUDA toolkit"
    if missing is not None:
        print(f"cuda-sanitize: nothing was checked: {missing}", file=sys.stderr)
        return 2
    if options.calls:
        calls()
        return 0
    logs = Path("build") / "cuda_sanitizer"
    logs.mkdir(parents=True, exist_ok=True)
    verdicts: dict[str, Verdict] = {}
    for tool in options.tool:
        start = time.monotonic()
        verdicts[tool] = under(tool, str(program), logs, options.seconds)
        print(f"{tool:10} {verdicts[tool].kind:8} {time.monotonic() - start:4.0f} s  {verdicts[tool].text}", flush=True)
    return status(verdicts)


if __name__ == "__main__":
    sys.exit(main())
