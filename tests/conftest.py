"""Options and fixtures: the device, the instruction sets, and a seed of its own for every test.

With ``--device emulated`` the CUDA operators, compiled for the host (tests/cuda_emulation), take the place of the
CPU's, and the tests that hold operators against references run over them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
import torch

import convext
from tests import cuda_emulation


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="cpu, cuda, or emulated: CUDA without a GPU (default: cpu)")
    parser.addoption("--seed", type=int, default=0, help="shifts the seed of every test, for inputs nobody has seen")


def is_emulated(config: pytest.Config) -> bool:
    return bool(config.getoption("--device") == "emulated")


def pytest_configure(config: pytest.Config) -> None:
    if is_emulated(config):
        cuda_emulation.load()
        # the kernels under test are the same at every instruction set of the CPU: one of them is enough
        levels = convext.backends.cpu.isa_levels()[-1:]
        convext.backends.cpu.isa_levels = lambda: levels
    config.addinivalue_line("markers", "slow: large or long-running; not part of the default run")
    # torch's compiler logs thousands of lines that would drown the failure they are shown with
    config.option.log_level = config.option.log_level or "WARNING"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not is_emulated(config):
        return
    kept, left = [], []
    for item in items:
        (kept if item.path.name in cuda_emulation.TEST_FILES else left).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The fixture `isa`: every instruction-set level that this processor has, unless a test names its own."""
    own = any("isa" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "isa" in metafunc.fixturenames and not own:
        metafunc.parametrize("isa", convext.backends.cpu.isa_levels(), indirect=True)


def pytest_report_header(config: pytest.Config) -> list[str]:
    levels = ", ".join(convext.backends.cpu.isa_levels())
    emulated = ", ".join(cuda_emulation.emulated_operators()) if is_emulated(config) else "none"
    return [
        f"CUDA operators emulated: {emulated}",
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; convext {convext.__version__}, levels {levels}",
        f"seed {config.getoption('--seed')} (change it by --seed)",
    ]


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device("cpu" if is_emulated(request.config) else request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """A seed made from the test's name and --seed; set for torch, and printed, so it shows where the test fails."""
    value = zlib.crc32(request.node.nodeid.encode()) ^ request.config.getoption("--seed")
    torch.manual_seed(value)
    print(f"seed of this test: {value}")
    if is_emulated(request.config):  # every schedule meets every kind of test
        schedule = cuda_emulation.SCHEDULES[value % len(cuda_emulation.SCHEDULES)]
        cuda_emulation.load().set_schedule(schedule, value)
        print(f"threads run in {schedule} order")
    return value


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with convext.backends.cpu.max_isa(request.param):
        yield request.param


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the thread count back after a test that changes it."""
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)
