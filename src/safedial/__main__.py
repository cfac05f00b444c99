"""``python -m safedial``: the command line."""

import sys

from safedial.cli import main

if __name__ == "__main__":
    sys.exit(main())
