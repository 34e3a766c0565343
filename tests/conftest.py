"""Options and fixtures: the device, the instruction sets, and a seed of its own for every test.

With ``--device emulated`` or ``--device cuda`` the CUDA operators, compiled for the host (tests/cuda_emulation) or
reached by carrying tensors to the GPU (tests/cuda_carried.py), take the place of the CPU's, and the same tests run
over them. tests/devices.py lists what that leaves out.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
import torch

import convext
from bench import measure
from convext.ops import coded
from tests import cuda_carried, cuda_emulation, devices


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="cpu, cuda, or emulated: CUDA without a GPU (default: cpu)")
    parser.addoption("--seed", type=int, default=0, help="shifts the seed of every test, for inputs nobody has seen")


def device_of(config: pytest.Config) -> str:
    return str(config.getoption("--device"))


def is_emulated(config: pytest.Config) -> bool:
    return device_of(config) == "emulated"


def pytest_configure(config: pytest.Config) -> None:
    device = device_of(config)
    refusal = devices.refusal(device)
    if refusal is not None:
        raise pytest.UsageError(f"--device {device}: {refusal}")
    devices.set_up(device)
    # the benchmark's tests share a process with those of how much memory stays
    measure.keep_freed_memory = lambda: False
    if device != "cpu":
        # the kernels under test are the same at every instruction set of the CPU: the one without peculiarities
        levels = convext.backends.cpu.isa_levels()[:1]
        type(convext.backends.cpu).isa_levels = lambda self: levels
        # plain calls would take the CPU's, past the operators that have been replaced
        coded.is_observed = lambda: True
        # and none of them is Winograd's, for which references ask for less
        convext.backends.winograd.enabled = False
        # nor TF32, which torch allows convolutions by default; its tests switch it on
        torch.backends.cudnn.allow_tf32 = False
    config.addinivalue_line("markers", "slow: large or long-running; not part of the default run")
    config.addinivalue_line("markers", "cpu_only(reason): of the CPU's kernels, or of nothing that a device changes")
    # torch's compiler logs thousands of lines that would drown the failure they are shown with
    config.option.log_level = config.option.log_level or "WARNING"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    device = device_of(config)
    for item in items:
        marks = item.iter_markers("cpu_only") if device != "cpu" else ()
        for why in [devices.left_out(device, item.path.name), *(mark.args[0] for mark in marks)]:
            if why is not None:
                item.add_marker(pytest.mark.skip(reason=why))
    if device == "cuda":  # what every other test rests upon
        items.sort(key=lambda item: item.path.name != "test_cuda_wrappers.py")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The fixture `isa`: every instruction-set level that this processor has, unless a test names its own."""
    own = any("isa" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "isa" in metafunc.fixturenames and not own:
        metafunc.parametrize("isa", convext.backends.cpu.isa_levels(), indirect=True)


def pytest_report_header(config: pytest.Config) -> list[str]:
    levels = ", ".join(convext.backends.cpu.isa_levels())
    runs_on = {
        "cpu": lambda: "the CPU",
        "cuda": lambda: f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, to which tensors are carried",
        "emulated": lambda: f"emulated CUDA: {', '.join(cuda_emulation.emulated_operators())}",
    }
    return [
        f"operators run on {runs_on[device_of(config)]()}",
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; convext {convext.__version__}, levels {levels}",
        f"seed {config.getoption('--seed')} (change it by --seed)",
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if cuda_carried.calls:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(cuda_carried.calls.items()))
        terminalreporter.write_line(f"operators called on the GPU: {counts}")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where a test may lay tensors that the device's kernels are to meet without being carried to them."""
    return torch.device("cuda" if device_of(request.config) == "cuda" else "cpu")


@pytest.fixture
def on_cpu(request: pytest.FixtureRequest) -> bool:
    """Whether the CPU's own kernels run, and not others in their place."""
    return device_of(request.config) == "cpu"


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
