"""Run by a Python that has nothing but a wheel of convext and what it depends on: does it compute, and show it?"""

import importlib.metadata
import sys

import torch

import convext

x, layer = torch.randn(2, 3, 9, 9), convext.nn.Conv2d(3, 8, 3, stride=2, padding=1)
ours = layer(x)
theirs = torch.nn.functional.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)
torch.testing.assert_close(ours, theirs)
ours.sum().backward()

x, pool = torch.randn(1, 2, 8, 8, 8), convext.nn.MaxPool3d(2)
torch.testing.assert_close(pool(x), torch.nn.functional.max_pool3d(x, 2))

# what is not code must be in the wheel, too
files = {str(file) for file in importlib.metadata.files("convext") or ()}
missing = {"convext/py.typed", "convext/_C.pyi", "convext/cli/digit.png", "convext/cli/digit_reader.pt"} - files
assert not missing, f"the wheel lacks {sorted(missing)}"
assert importlib.metadata.version("convext") == convext.__version__

levels = ", ".join(convext.backends.cpu.isa_levels())
print(f"convext {convext.__version__} from {convext.__file__} ({levels})")
print(f"computes as torch {torch.__version__}, under Python {sys.version.split()[0]}")
