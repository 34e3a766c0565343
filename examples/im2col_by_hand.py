"""A convolution as a matrix product, step by step on a 5 x 5 image, everything printed.

One learns what im2col is: `unfold` writes each window of the image as a column, a filter is a row, and the product of
the two is the convolution. Then why convext's kernels never do that (the columns hold every pixel up to nine times),
and that `fold` is not unfold's inverse but its adjoint: it sums what overlaps, which is the gradient.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

import convext
from convext import functional as F

KERNEL = 3


def show(title: str, matrix: Tensor) -> None:
    """Prints integers in columns."""
    print(f"\n{title}, {' x '.join(map(str, matrix.shape))}")
    for row in matrix.tolist():
        print("   ", " ".join(f"{int(v):3d}" for v in row))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="the same: it takes no time")
    parser.parse_args(arguments)

    image = torch.arange(1.0, 26.0).reshape(1, 1, 5, 5)
    weight = torch.tensor([[[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]], [[[1.0, 1, 1], [1, 1, 1], [1, 1, 1]]]])
    show("the image", image[0, 0])
    show("filter 0, Sobel's derivative", weight[0, 0])
    show("filter 1, a sum", weight[1, 0])

    print("\n1. The filter lies on 3 x 3 places of the image (5 - 3 + 1 in each direction). The first and the last:")
    show("window at row 0, column 0", image[0, 0, :3, :3])
    show("window at row 2, column 2", image[0, 0, 2:, 2:])

    print("\n2. im2col: every window becomes a column, top left first, its nine pixels row by row.")
    columns = F.unfold(image, KERNEL)
    show("the columns", columns[0])
    assert torch.equal(columns[0, :, 0], image[0, 0, :3, :3].flatten())
    assert torch.equal(columns[0, :, 8], image[0, 0, 2:, 2:].flatten())

    print("\n3. Every filter becomes a row.")
    rows = weight.flatten(1)
    show("the filters", rows)

    print("\n4. Rows times columns: one number for each filter and window.")
    product = rows @ columns[0]
    show("the product", product)
    output = product.reshape(1, 2, 3, 3)
    show("its first row, as an image", output[0, 0])
    show("its second row, as an image", output[0, 1])

    print("\n5. That is conv2d:")
    expected = F.conv2d(image, weight)
    same = torch.equal(output, expected)
    print(f"    F.conv2d(image, weight) is {'the same' if same else 'ANOTHER RESULT'}")

    print("\n6. What it costs: the columns hold every pixel as often as windows see it.")
    seen = F.fold(torch.ones_like(columns), (5, 5), KERNEL)
    show("how often: fold(ones)", seen[0, 0])
    print(f"    {columns.numel()} numbers for {image.numel()} pixels. For a layer with 64 channels of 224 x 224 that")
    print(f"    is {64 * 9 * 222 * 222 * 4 / 2**20:.0f} MiB an image. convext's kernels copy a panel of it at a time:")
    plan = convext.conv_plan("fprop", (1, 64, 224, 224), (64, 64, KERNEL, KERNEL))
    print(f"    {plan.workspace_bytes / 2**20:.1f} MiB of workspace ({plan.algorithm}), whatever the batch.")

    print("\n7. fold sums where windows overlap, so it undoes unfold only up to that count ...")
    folded = F.fold(columns, (5, 5), KERNEL)
    show("fold(unfold(image))", folded[0, 0])
    same &= torch.equal(folded, image * seen)
    print("    ... but it is unfold's adjoint, <unfold(x), c> = <x, fold(c)>, and with that the gradient:")
    x = image.clone().requires_grad_()
    F.unfold(x, KERNEL).backward(torch.ones_like(columns))
    same &= torch.equal(x.grad, seen) if x.grad is not None else False
    print(f"    unfold's backward of ones is fold(ones): {same}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
