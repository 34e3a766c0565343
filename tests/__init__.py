"""The test-suite. --seed N shifts every test's inputs, --device names a device, `-m slow` runs the slow tests."""

import os

# Idle threads sleep instead of spinning. Read by OpenMP when torch is imported, so it stands here, before everything:
# where other work shares the cores, spinning threads make the suite of small calls eight times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
