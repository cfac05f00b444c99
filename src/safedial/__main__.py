"""``python -m safedial``: the command line. Imports `cli` only."""

import sys

from safedial.cli import main

if __name__ == "__main__":
    sys.exit(main())
