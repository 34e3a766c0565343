"""Numbers that textbooks and lecture notes give for convolutions, held as tests."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import convext.functional as CF
from convext import nn


def test_five_by_five_image_starts_with_four() -> None:
    rows = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]
    image = torch.tensor([[rows]], dtype=torch.float32)
    kernel = torch.tensor([[[[1, 0, 1], [0, 1, 0], [1, 0, 1]]]], dtype=torch.float32)
    feature = CF.conv2d(image, kernel)[0, 0]
    assert feature[0, 0] == 4
    assert feature.tolist() == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]
    assert torch.equal(CF.conv2d(image.long(), kernel.long())[0, 0], feature.long())


def test_one_dimensional_row() -> None:
    row, kernel = torch.tensor([[[1.0, 1, 1, 0, 0]]]), torch.tensor([[[1.0, 0, 1]]])
    assert CF.conv1d(row, kernel).flatten().tolist() == [2, 1, 1]


@pytest.mark.parametrize(("stride", "padding", "size"), [(1, 0, 5), (2, 0, 3), (1, 1, 7), (3, 1, 3)])
def test_seven_by_seven_with_a_three_by_three_kernel(stride: int, padding: int, size: int) -> None:
    y = CF.conv2d(torch.ones(1, 1, 7, 7), torch.ones(1, 1, 3, 3), stride=stride, padding=padding)
    assert y.shape == (1, 1, size, size)


def test_stride_three_without_padding_does_not_cover_seven_pixels() -> None:
    """(7 - 3) / 3 is no whole number: without padding the last pixel is never seen; with padding 1 every pixel is."""
    x = torch.ones(1, 1, 7, 7, requires_grad=True)
    w = torch.ones(1, 1, 3, 3)
    (seen,) = torch.autograd.grad(CF.conv2d(x, w, stride=3).sum(), x)
    assert (seen[..., -1] == 0).all() and (seen[..., :-1, :-1] > 0).all()
    (seen,) = torch.autograd.grad(CF.conv2d(x, w, stride=3, padding=1).sum(), x)
    assert (seen > 0).all()


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("layer", "size", "output", "count"),
    [
        (nn.Conv2d(3, 10, 5, padding=2), 32, (10, 32, 32), 760),
        (nn.Conv2d(3, 96, 11, stride=4), 227, (96, 55, 55), 96 * (11 * 11 * 3 + 1)),
        (nn.Conv2d(3, 100, 3), 28, (100, 26, 26), 2800),
        (nn.Conv2d(64, 32, 1), 56, (32, 56, 56), 32 * 65),
    ],
    ids=("ten 5x5 filters", "AlexNet's first layer", "a hundred 3x3 filters", "1x1 to 32 channels"),
)
def test_layers_of_the_notes(layer: nn.Conv2d, size: int, output: tuple[int, ...], count: int) -> None:
    assert layer(torch.zeros(1, layer.in_channels, size, size)).shape == (1, *output)
    assert parameters(layer) == count


@pytest.mark.parametrize("stride", (1, 2, 3))
@pytest.mark.parametrize("kernel", (2, 3, 5))
@pytest.mark.parametrize("padding", (0, 1))
def test_size_of_a_transposed_convolution(stride: int, kernel: int, padding: int) -> None:
    for size in (1, 4, 7):
        for extra in range(stride):
            out = (size - 1) * stride + kernel - 2 * padding + extra
            if out < 1:
                continue
            layer = nn.ConvTranspose1d(2, 3, kernel, stride, padding, output_padding=extra)
            assert layer(torch.zeros(1, 2, size)).shape == (1, 3, out)


@pytest.mark.parametrize(("stride", "padding", "size"), [(1, 0, 8), (2, 1, 9), (3, 0, 11), (2, 1, 8)])
def test_the_gradient_to_the_input_is_a_transposed_convolution(stride: int, padding: int, size: int) -> None:
    x = torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    y = CF.conv2d(x, w, None, stride, padding)
    g = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, g)
    left_over = (size + 2 * padding - 3) % stride
    assert torch.equal(gradient, CF.conv_transpose2d(g, w, None, stride, padding, left_over))


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1)])
def test_im2col_times_the_filter_matrix(stride: int, padding: int) -> None:
    """D filters over C channels and F x F pixels as one D x (C F^2) matrix."""
    x, w = torch.randn(2, 3, 9, 8, dtype=torch.float64), torch.randn(5, 3, 3, 3, dtype=torch.float64)
    columns = F.unfold(x, 3, padding=padding, stride=stride)
    y = CF.conv2d(x, w, None, stride, padding)
    torch.testing.assert_close((w.flatten(1) @ columns).view_as(y), y, rtol=1e-13, atol=1e-13)


def test_two_linear_convolutions_are_one() -> None:
    """Without a nonlinearity between them 3x3 after 3x3 is one 5x5 kernel: the full convolution of the two."""
    x = torch.randn(1, 2, 12, 11, dtype=torch.float64)
    a, b = torch.randn(4, 2, 3, 3, dtype=torch.float64), torch.randn(3, 4, 3, 3, dtype=torch.float64)
    both = CF.conv2d(a.transpose(0, 1), b.flip(2, 3), padding="full").transpose(0, 1)
    assert both.shape == (3, 2, 5, 5)
    torch.testing.assert_close(CF.conv2d(CF.conv2d(x, a), b), CF.conv2d(x, both), rtol=1e-12, atol=1e-12)


def test_a_fully_connected_layer_is_a_full_size_kernel() -> None:
    linear = torch.nn.Linear(3 * 6 * 5, 7).double()
    x = torch.randn(4, 3, 6, 5, dtype=torch.float64)
    y = CF.conv2d(x, linear.weight.view(7, 3, 6, 5), linear.bias)
    torch.testing.assert_close(y.flatten(1), linear(x.flatten(1)), rtol=1e-13, atol=1e-13)


def test_mean_of_the_output_under_circular_padding() -> None:
    """Every pixel meets every tap once, so the mean is multiplied by the sum of the kernel."""
    x = torch.randn(1, 1, 9, 13, dtype=torch.float64) + 2
    kernel = torch.randn(1, 1, 3, 5, dtype=torch.float64)
    y = CF.conv2d(x, kernel, padding=(1, 2), padding_mode="circular")
    assert y.shape == x.shape
    torch.testing.assert_close(y.mean(), kernel.sum() * x.mean(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("layers", (1, 2, 3, 5))
def test_receptive_field_of_stacked_three_by_three_layers(layers: int) -> None:
    size = 2 * layers + 9
    x = torch.zeros(1, 1, size, size, requires_grad=True)
    net = torch.nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(layers)))
    for p in net.parameters():
        torch.nn.init.constant_(p, 1.0)
    (g,) = torch.autograd.grad(net(x)[0, 0, size // 2, size // 2], x)
    rows, columns = (g[0, 0] != 0).nonzero(as_tuple=True)
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == 1 + 2 * layers


def test_convolution_is_equivariant_to_shifts() -> None:
    x = torch.randn(1, 2, 8, 9)
    w = torch.randn(3, 2, 3, 3)
    shifted = CF.conv2d(x.roll((2, 3), (2, 3)), w, padding=1, padding_mode="circular")
    torch.testing.assert_close(shifted, CF.conv2d(x, w, padding=1, padding_mode="circular").roll((2, 3), (2, 3)))


def test_an_edge_kernel_finds_an_edge() -> None:
    image = torch.zeros(1, 1, 6, 8)
    image[..., :4] = 10
    edges = CF.conv2d(image, torch.tensor([[[[1.0, 0, -1]] * 3]]))
    assert edges[0, 0].tolist() == [[0, 0, 30, 30, 0, 0]] * 4
