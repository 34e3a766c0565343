"""Whether the convext that is imported here has its CUDA kernels: under a torch with CUDA, with or without a GPU."""

import re
import subprocess
import sys

import torch

import convext
from convext import _coverage, _cuda


def needed(library: str) -> list[str]:
    """The libraries that a library asks the loader for."""
    text = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    return re.findall(r"NEEDED.*\[(.*)\]", text)


print(f"torch {torch.__version__}, CUDA {torch.version.cuda}; GPU: {torch.cuda.is_available()}")
assert _cuda.loaded(), _cuda.absence()
assert "cuda" in _coverage.DEVICES

for path in (convext._C.__file__, str(_cuda.LIBRARY)):
    names = needed(path)
    print(f"{path.rsplit('/', 1)[1]} needs {', '.join(names)}")
    foreign = [name for name in names if re.search("cuda|cudnn|cublas|nvrtc", name)]
    assert not foreign, f"expected CUDA's libraries to be linked in, or torch's own, got {foreign}"

# python's own kernel at this key says that there is none: a kernel of the library does not come from there
missing = []
for name in torch.ops.convext:
    table = torch._C._dispatch_dump_table(f"convext::{name}")
    line = next((line for line in table.splitlines() if line.startswith("CUDA:")), "")
    if "csrc/cuda" not in line:
        missing.append(f"{name}: {line}")
assert not missing, missing
print(f"{len(list(torch.ops.convext))} operators, each with a kernel for CUDA")

absent = _cuda.absence()
print(f"a CUDA kernel can run here: {'yes' if absent is None else f'no, {absent}'}")
if absent is None:
    x, w = torch.randn(2, 3, 8, 9), torch.randn(4, 3, 3, 3)
    gap = (convext.functional.conv2d(x.cuda(), w.cuda()).cpu() - convext.functional.conv2d(x, w)).abs().max()
    assert gap < 1e-5, gap

sys.exit(subprocess.run([sys.executable, "-m", "convext", "doctor"], check=False).returncode)
