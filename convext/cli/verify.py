"""``verify NET``: :func:`convext.verify` of a network and random inputs."""

from __future__ import annotations

import argparse
import dataclasses
import json

import torch

import convext
from convext.cli import networks
from convext.cli.failures import DONE, FOUND

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  python -m convext verify resnet18
  python -m convext verify mobilenet_v2 --dtype bfloat16 --gradients
  python -m convext verify my_nets:unet --input 1x3x64x64 || echo "a layer is beyond its bound"

Each layer is computed on the inputs that it gets in the network, by convext, by torch and in float64; the columns are
relative errors, and bound is what convext promises (docs/numerics.md).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    networks.add_arguments(parser)
    parser.add_argument("--gradients", action="store_true", help="also of the gradients to input (dx) and weight (dw)")
    parser.add_argument("--failures", action="store_true", help="print the layers beyond their bounds alone")
    parser.add_argument("--json", action="store_true", help="print the rows as a JSON list")


def run(options: argparse.Namespace) -> int:
    model, inputs = networks.network(options), networks.inputs(options)
    with networks.failures_of(options, inputs):
        table = convext.verify(model, *inputs, gradients=options.gradients)
    if options.json:
        rows = table.failures if options.failures else table.rows
        print(json.dumps([{**dataclasses.asdict(row), "ok": row.ok} for row in rows], indent=1, default=str))
    else:
        print(dataclasses.replace(table, rows=table.failures) if options.failures and not table.ok else table)
        print(f"{options.network}, {options.dtype}, seed {options.seed}, torch {torch.__version__}")
    return DONE if table.ok else FOUND
