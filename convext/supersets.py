"""What torch rejects and convext accepts on purpose, in one table that docs/padding.md and the tests share.

Every other error input of torch raises here too, with the same type of exception. `DIFFERENCES` lists the few inputs
that torch takes and convext treats otherwise.

An example is a Python expression over the names `F` (a functional module), `nn` (a layer module), `ones` (torch.ones)
and `torch`. With torch's modules a superset's example raises `torch_raises`; with convext's it gives a result.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DIFFERENCES", "SUPERSETS", "Difference", "Superset", "as_markdown"]


@dataclass(frozen=True)
class Superset:
    """One thing that torch rejects."""

    what: str
    example: str
    torch_raises: type[Exception]
    meaning: str


@dataclass(frozen=True)
class Difference:
    """One input that torch takes. `raises` is None where convext gives another result."""

    what: str
    example: str
    raises: type[Exception] | None
    why: str


SUPERSETS = (
    Superset(
        "'same' at a stride above 1",
        "F.conv1d(ones(1, 2, 7), ones(3, 2, 3), stride=2, padding='same')",
        RuntimeError,
        "output ceil(in / stride); of an odd total the larger half at the end",
    ),
    Superset(
        "the words 'same_lower', 'causal' and 'full'",
        "F.conv1d(ones(1, 2, 7), ones(3, 2, 3), padding='causal')",
        RuntimeError,
        "see the words above",
    ),
    Superset(
        "a pair (before, after) for an axis",
        "F.conv2d(ones(1, 2, 7, 7), ones(3, 2, 3, 3), padding=((1, 2), (0, 1)))",
        TypeError,
        "both sides by themselves",
    ),
    Superset(
        "a negative number in a pair",
        "F.conv1d(ones(1, 2, 7), ones(3, 2, 3), padding=((-1, 0),))",
        TypeError,
        "crops; in a transposed convolution it extends. A negative int raises, as in torch",
    ),
    Superset(
        "another kind of padding on each axis",
        "F.conv2d(ones(1, 2, 7, 7), ones(3, 2, 3, 3), padding=(1, 'same'))",
        TypeError,
        "each axis by itself",
    ),
    Superset(
        "a word in a transposed convolution",
        "F.conv_transpose1d(ones(1, 2, 7), ones(2, 3, 3), stride=2, padding='same')",
        TypeError,
        "'valid', 'same', 'same_lower', 'causal'; 'full' raises ValueError",
    ),
    Superset(
        "a pair in a transposed convolution",
        "F.conv_transpose1d(ones(1, 2, 7), ones(2, 3, 3), padding=((0, 1),))",
        TypeError,
        "crops the start and the end of the result",
    ),
    Superset(
        "padding_mode in the functions",
        "F.conv1d(ones(1, 2, 7), ones(3, 2, 3), padding=1, padding_mode='reflect')",
        TypeError,
        "as the layer of that mode",
    ),
    Superset(
        "8- to 32-bit integers in a transposed convolution",
        "F.conv_transpose1d(ones(1, 2, 7, dtype=torch.int8), ones(2, 3, 3, dtype=torch.int8))",
        NotImplementedError,
        "sums wrap around, as in torch's convolution of these types",
    ),
    Superset(
        "'same' at a stride above 1 in a layer",
        "nn.Conv1d(2, 3, 3, stride=2, padding='same')(ones(1, 2, 7))",
        ValueError,
        "as in the functions",
    ),
    Superset(
        "other words in a layer",
        "nn.Conv1d(2, 3, 3, padding='causal')(ones(1, 2, 7))",
        ValueError,
        "as in the functions",
    ),
    Superset(
        "pairs in a layer",
        "nn.Conv2d(2, 3, 3, padding=((1, 2), (0, 1)))(ones(1, 2, 7, 7))",
        TypeError,
        "as in the functions",
    ),
    Superset(
        "padding_mode in a transposed layer",
        "nn.ConvTranspose1d(2, 3, 3, padding=1, padding_mode='circular')(ones(1, 2, 7))",
        ValueError,
        "the adjoint of the convolution of that mode",
    ),
    Superset(
        "unfold and fold of one and of three axes",
        "F.unfold(ones(1, 2, 7), (3,))",
        RuntimeError,
        "the number of axes is the length of kernel_size; an int means two",
    ),
    Superset(
        "integers in unfold and fold",
        "F.unfold(ones(1, 2, 7, 7, dtype=torch.int32), 3)",
        NotImplementedError,
        "the sums of fold wrap around",
    ),
    Superset(
        "words and pairs in unfold and fold",
        "F.fold(ones(1, 18, 49), (7, 7), 3, padding='same')",
        TypeError,
        "the pixels that a convolution by that kernel would add; fold resolves words from output_size",
    ),
    Superset(
        "words and pairs in their layers",
        "nn.Unfold(3, padding=((1, 2), 'same'))(ones(1, 2, 7, 7))",
        TypeError,
        "as in the functions",
    ),
    Superset(
        "bfloat16 and float16 in local_response_norm",
        "F.local_response_norm(ones(1, 2, 7, 7, dtype=torch.bfloat16), 3)",
        NotImplementedError,
        "computed in float32",
    ),
    Superset(
        "a word in a pooling",
        "F.max_pool1d(ones(1, 2, 7), 3, stride=2, padding='same')",
        TypeError,
        "as in the convolutions; the padding holds nothing, or an average's zeros",
    ),
    Superset(
        "a pair in a pooling",
        "F.avg_pool2d(ones(1, 2, 7, 7), 3, padding=((2, 0), (-1, 1)))",
        TypeError,
        "both sides by themselves, each up to the window less one",
    ),
    Superset(
        "a dilation in an average",
        "F.avg_pool2d(ones(1, 2, 7, 7), 3, dilation=2)",
        TypeError,
        "as in max pooling",
    ),
    Superset(
        "padding, dilation and abs in Lp pooling",
        "F.lp_pool2d(ones(1, 2, 7, 7), 3, 2, padding='same', abs=True)",
        TypeError,
        "padding holds zeros; abs takes powers of magnitudes",
    ),
    Superset(
        "integers in max_pool1d without indices",
        "F.max_pool1d(ones(1, 2, 7, dtype=torch.int8), 2)",
        NotImplementedError,
        "as with indices",
    ),
    Superset(
        "bfloat16 and float16 in avg_pool3d and lp_pool3d",
        "F.avg_pool3d(ones(1, 2, 4, 4, 4, dtype=torch.bfloat16), 2)",
        NotImplementedError,
        "summed in float32",
    ),
    Superset(
        "avg_pool3d of an image smaller than the window, with its padding",
        "F.avg_pool3d(ones(1, 2, 2, 2, 2), 3, padding=1)",
        RuntimeError,
        "as avg_pool2d",
    ),
    Superset(
        "a tuple of one in lp_pool1d",
        "F.lp_pool1d(ones(1, 2, 8), 2, (2,))",
        TypeError,
        "as in the other poolings of one axis",
    ),
    Superset(
        "one output_ratio for all axes in fractional max pooling",
        "F.fractional_max_pool2d(ones(1, 2, 6, 6), 2, output_ratio=0.5)",
        TypeError,
        "the same on each axis, as in the layers",
    ),
    Superset(
        "an output of fractional_max_pool3d as large as its windows allow",
        "F.fractional_max_pool3d(ones(1, 2, 6, 6, 6), 2, output_size=(5, 5, 5))",
        RuntimeError,
        "as in fractional_max_pool2d",
    ),
    Superset(
        "a word in a pooling layer",
        "nn.MaxPool2d(3, 2, 'same')(ones(1, 2, 7, 7))",
        TypeError,
        "as in the functions",
    ),
)

DIFFERENCES = (
    Difference(
        "a convolution of no input channels",
        "F.conv1d(ones(2, 0, 7), ones(3, 0, 3))",
        None,
        "a sum of nothing: every output channel is its bias. torch gives a result without channels",
    ),
    Difference(
        "a bias of another type in a transposed convolution",
        "F.conv_transpose2d(ones(1, 2, 7, 7), ones(2, 3, 3, 3), ones(3, dtype=torch.float64))",
        RuntimeError,
        "torch takes it where oneDNN computes, in float32, and raises elsewhere",
    ),
    Difference(
        "a transposed result with an empty axis",
        "F.conv_transpose2d(ones(2, 4, 1, 1), ones(4, 4, 2, 2), padding=1)",
        RuntimeError,
        "torch takes it where oneDNN computes, in float32, and raises elsewhere",
    ),
    Difference(
        "a wrong type or dilation beside an empty batch",
        "F.conv1d(ones(0, 2, 7), ones(3, 2, 3, dtype=torch.float64))",
        RuntimeError,
        "checked as for any batch",
    ),
    Difference(
        "tensors on the meta device among others",
        "F.conv1d(ones(1, 2, 7), ones(3, 2, 3, device='meta'))",
        RuntimeError,
        "one device for all",
    ),
    Difference(
        "integers in local_response_norm",
        "F.local_response_norm(ones(1, 2, 7, 7, dtype=torch.int64), 3)",
        NotImplementedError,
        "torch rounds the mean of the squares to a whole number",
    ),
)


def as_markdown() -> str:
    """Both tables as docs/padding.md has them."""
    lines = ["| torch raises | for | convext |", "| --- | --- | --- |"]
    lines += [f"| {s.torch_raises.__name__} | {s.what}: `{s.example}` | {s.meaning} |" for s in SUPERSETS]
    lines += ["", "| torch takes | convext | why |", "| --- | --- | --- |"]
    for d in DIFFERENCES:
        does = "another result" if d.raises is None else d.raises.__name__
        lines.append(f"| {d.what}: `{d.example}` | {does} | {d.why} |")
    return "\n".join(lines) + "\n"
