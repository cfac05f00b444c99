"""A program that sends tasks, and a real worker, whose pool forks. Only the worker depends on install()."""

import subprocess
import sys
import time

import recipe

import safedial

# The defaults retry for a minute.
retries = {"max_retries": 0}
recipe.app.conf.update(task_publish_retry_policy=retries, result_backend_transport_options={"retry_policy": retries})

if "worker" not in sys.argv:
    worker = subprocess.Popen([sys.executable, "-m", "tests.frameworks.application", sys.argv[1], "worker"])


@safedial.guard()
def use(text):
    try:
        return recipe.echo.delay(text).get(timeout=5)
    except Exception:
        time.sleep(0.3)  # the worker dials every two seconds
        raise


def main():
    recipe.app.worker_main(["worker", "-P", "prefork", "-c", "1", "--without-gossip", "--without-mingle"])
