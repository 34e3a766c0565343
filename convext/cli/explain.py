"""``explain NET``: :func:`convext.explain` of a network and random inputs."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

import torch

import convext
from convext.cli import networks
from convext.cli.failures import DONE

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  python -m convext explain resnet18
  python -m convext explain vgg16 --meta                        nothing is computed: sizes and plans alone
  python -m convext explain my_nets:unet --input 1x3x64x64 --no-time
  python -m convext explain resnet18 --json | jq '.[].plan.workspace_bytes'

The notes under the table say what its columns are; docs/inspect.md says more.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    networks.add_arguments(parser)
    parser.add_argument("--no-time", action="store_true", help="measure nothing")
    parser.add_argument("--meta", action="store_true", help="on torch's meta device: nothing is computed or measured")
    parser.add_argument("--json", action="store_true", help="print the rows as a JSON list")


def _plain(value: Any) -> Any:
    """What JSON has no word for: the step of a receptive field, which is a fraction."""
    return float(value)


def run(options: argparse.Namespace) -> int:
    model, inputs = networks.network(options), networks.inputs(options)
    if options.meta:
        model, inputs = model.to("meta"), [t.to("meta") for t in inputs]
    with networks.failures_of(options, inputs):
        explanation = convext.explain(model, *inputs, time=not options.no_time)
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in explanation.rows], indent=1, default=_plain))
        return DONE
    print(explanation)
    print(f"{options.network}, {options.dtype}, seed {options.seed}, torch {torch.__version__}")
    return DONE
