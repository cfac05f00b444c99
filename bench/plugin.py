"""What the plugin adds to the start of pytest, and what the first fixture loads, by ``python -X importtime``.

python -m bench.plugin [--rounds 20]
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys

# Modules that every run of pytest has loaded.
CODE = "import logging, pytest\nimport safedial.pytest_plugin\nimport safedial.testing"
WHEN = {"safedial.pytest_plugin": "when pytest starts", "safedial.testing": "when a fixture is first used"}


def milliseconds(module, report):
    """Return the cumulative time of *module*."""
    (found,) = re.findall(rf"\| +(\d+) \| +{re.escape(module)}$", report, re.MULTILINE)
    return int(found) / 1000


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-X", "importtime", "-c", CODE]
    reports = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
        for _ in range(rounds + 1)
    ][1:]  # the first may compile
    print(f"Import time, median of {rounds} (Python {platform.python_version()})")
    for module, when in WHEN.items():
        taken = statistics.median(milliseconds(module, report) for report in reports)
        print(f"  {module:24} {taken:6.2f} ms, {when}")


if __name__ == "__main__":
    main()
