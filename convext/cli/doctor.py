"""``doctor``: what is installed, a self-test, and for each fault what to do. It works without an importable convext."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from convext._faults import Fault
from convext.cli import self_test
from convext.cli.facts import Facts, gather
from convext.cli.failures import DONE, FOUND
from convext.cli.faults import faults, notes

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  python -m convext doctor                  all of it, a few seconds
  python -m convext doctor --json | jq .    for programs: facts, faults, notes, self_test
  python -m convext doctor --no-self-test && python train.py
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    parser.add_argument("--no-self-test", action="store_true", help="compute nothing")


def _rows(facts: Facts) -> list[tuple[str, str]]:
    def tool(found: Any) -> str:
        return "none found" if found is None else f"{found.path}, {found.version}"

    torch = "cannot be imported"
    if facts.torch is not None:
        torch = (
            f"{facts.torch}, {f'CUDA {facts.torch_cuda}' if facts.torch_cuda else 'without CUDA'}, {facts.torch_folder}"
        )
    kernels = "no file that this Python loads" if facts.extension is None else Path(facts.extension).name
    kernels += f", by {facts.built_by}, for torch {facts.built_for_torch} and later" if facts.built_by else ""
    kernels += " (not loaded)" if facts.extension and not facts.built_by else ""
    cuda = "not built" if facts.cuda_library is None else Path(facts.cuda_library).name
    if facts.cuda_library is not None:
        cuda += " (loaded)" if facts.cuda_library_loaded else " (not loaded)"
    if facts.torch_cuda is not None:
        cuda += f"; GPU: {facts.gpu or 'none found'}"
    level = "unknown" if facts.level is None else f"{facts.level}, of {', '.join(facts.levels)}"
    level += f" (CONVEXT_MAX_ISA={facts.level_cap})" if facts.level_cap is not None else ""
    threads = "unknown" if facts.threads is None else f"{facts.threads}, on {facts.cores} cores"
    threads += "".join(f", {name}={value}" for name, value in facts.thread_variables.items())
    return [
        ("convext", f"{facts.version}, {facts.package}"),
        ("Python", f"{facts.python}, {facts.executable}, {facts.system}"),
        ("torch", torch),
        ("CPU kernels", kernels),
        ("CUDA kernels", cuda),
        ("instruction set", level),
        ("threads", threads),
        ("C++ compiler", tool(facts.compiler)),
        ("nvcc", tool(facts.nvcc)),
    ]


def _tested(results: list[self_test.LevelResult]) -> str:
    return ", ".join(
        f"{r.level} {'ok' if not r.failures else 'FAIL'} ({r.calls} results, {r.seconds:.1f} s)" for r in results
    )


def _self_test(facts: Facts, wanted: bool) -> tuple[list[self_test.LevelResult], str, list[Fault]]:
    """The results, what to print of them, and the faults that they show."""
    if facts.import_fault is not None:
        return [], "not run: convext cannot be imported", []
    if not wanted:
        return [], "not asked for", []
    remedy = "report it with the output of doctor --json; CONVEXT_MAX_ISA=baseline may do meanwhile"
    try:
        results = self_test.run()
    except Exception as error:  # it is what is looked for
        fault = Fault("self-test", f"the self-test stopped: {type(error).__name__}: {error}", remedy)
        return [], "stopped by an error", [fault]
    found = [Fault("wrong result", f"{r.level}: {text}", remedy) for r in results for text in r.failures]
    return results, _tested(results), found


def run(options: argparse.Namespace) -> int:
    facts = gather(options.import_error)
    results, tested, wrong = _self_test(facts, not options.no_self_test)
    found, known = [*faults(facts), *wrong], notes(facts)
    if options.json:
        report = {
            "facts": dataclasses.asdict(facts) | {"import_fault": facts.import_fault and facts.import_fault._asdict()},
            "self_test": [dataclasses.asdict(result) for result in results],
            "faults": [fault._asdict() for fault in found],
            "notes": [note._asdict() for note in known],
        }
        print(json.dumps(report, indent=1))
        return FOUND if found else DONE
    for name, value in [*_rows(facts), ("self-test", tested)]:
        print(f"{name:<16} {value}")
    for kind, listed in (("fault", found), ("note", known)):
        for fault in listed:
            print(f"\n{kind}: {fault.what}\n  {'to repair it' if kind == 'fault' else 'to change it'}: {fault.remedy}")
    print(f"\n{len(found)} fault{'s' * (len(found) != 1)}" if found else "\nno fault")
    return FOUND if found else DONE
