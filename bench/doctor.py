"""What a look of ``safedial doctor`` costs if there are many sockets, all in TIME_WAIT.

    python -m bench.doctor [--sockets 200000]

They are made in a network namespace (Linux, without root), in about ten seconds.
"""

import argparse
import platform

from tests.cli.doctor import many
from tests.support import namespace


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sockets", type=int, default=200_000)
    given = parser.parse_args()
    *_, count, _, peak, cpu = namespace.call(many.look, given.sockets, port_range=many.PORT_RANGE)
    print(f"{count:,} sockets: {cpu:.2f} s of CPU, {peak:.0f} MB (Python {platform.python_version()})")


if __name__ == "__main__":
    main()
