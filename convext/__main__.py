"""``python -m convext``: see convext/cli/__init__.py."""

import sys

from convext.cli import main

if __name__ == "__main__":
    sys.exit(main())
