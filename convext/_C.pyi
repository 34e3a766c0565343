# What csrc/bindings.cpp defines.
from typing import Any

def isa_levels() -> list[str]: ...
def get_max_isa() -> str: ...
def set_max_isa(name: str) -> None: ...
def conv_plan(
    operator: str,
    dtype: str,
    input_size: list[int],
    weight_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    padding_mode: int,
    channels_last: bool,
    num_threads: int,
) -> dict[str, Any]: ...
def build_info() -> dict[str, Any]: ...
def measure_fma_peak(dtype: str) -> float: ...
