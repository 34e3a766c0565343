"""Options and fixtures: the device, the instruction sets, and a seed of its own for every test."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
import torch

import convext


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="the device that device-neutral tests run on (default: cpu)")
    parser.addoption("--seed", type=int, default=0, help="shifts the seed of every test, for inputs nobody has seen")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: large or long-running; not part of the default run")
    # torch's compiler logs thousands of lines that would drown the failure they are shown with
    config.option.log_level = config.option.log_level or "WARNING"


def pytest_report_header(config: pytest.Config) -> list[str]:
    levels = ", ".join(convext.backends.cpu.isa_levels())
    return [
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; convext {convext.__version__}, levels {levels}",
        f"seed {config.getoption('--seed')} (change it by --seed)",
    ]


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """A seed made from the test's name and --seed; set for torch, and printed, so it shows where the test fails."""
    value = zlib.crc32(request.node.nodeid.encode()) ^ request.config.getoption("--seed")
    torch.manual_seed(value)
    print(f"seed of this test: {value}")
    return value


@pytest.fixture(params=convext.backends.cpu.isa_levels())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction-set level that this processor has, one after the other."""
    with convext.backends.cpu.max_isa(request.param):
        yield request.param


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the thread count back after a test that changes it."""
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)
