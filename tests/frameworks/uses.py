"""The uses of an application, one after the other, and what they came to."""

import re
import secrets
import threading
import time

from safedial._tcp import procnet

# Seconds that anything may take, on a busy machine.
WITHIN = 30.0
MET = "met itself"
# What an application says if nobody listens. A pool says only that it has no connection. paho-mqtt also connects a pair
# of sockets, for which a range of two ports may have none left.
_NOBODY = re.compile(r"refused|\b111\b|Can't connect|PoolTimeout|Cannot assign requested address", re.IGNORECASE)


def word():
    """Return a word that no other use has."""
    return secrets.token_hex(8)


class Uses(threading.Thread):
    """Uses of an application, one after the other, until the block ends; and what they came to."""

    def __init__(self, app, port):
        super().__init__()
        self._app, self._port = app, port
        self._over = threading.Event()
        self._met_itself = False
        self.replies = []

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        self._app.kill()
        self.join()

    def run(self):
        while not self._over.wait(0.01):
            self.replies.append(self._app.ask(word(), WITHIN))
            if self.replies[-1].kind in ("hung", "ended"):
                return

    def wait(self, count, seconds):
        """Wait for *count* uses, or until a socket met itself."""
        self._wait(lambda: len(self.replies) >= count or self._met_itself, seconds)

    def wait_until_right(self, seconds):
        """Wait until the application reads what it wrote, and return whether it did."""
        return self._wait(lambda: self.replies[-1].right, seconds)

    def _wait(self, condition, seconds):
        end = time.monotonic() + seconds
        while self.is_alive() and not condition() and time.monotonic() < end:
            self._met_itself |= self._is_met()
            time.sleep(0.002)
        return bool(condition())

    def _is_met(self):
        """Return whether a socket met itself, and still did 20 ms later.

        One that the guard can't steer, because it was bound before, meets itself and is released at once.
        """
        for pause in (0, 0.02):
            time.sleep(pause)
            if all(row.local != row.peer for row in procnet.sockets_on(self._port)):
                return False
        return True

    def faults(self):
        """Return what was wrong while nobody listened."""
        odd = [reply for reply in self.replies if reply.kind != "error" or not _NOBODY.search(reply.text)]
        faults = [f"{reply.kind} for {reply.word!r} while nobody listens: {reply.text[-1500:]}" for reply in odd]
        return [MET] * self._met_itself + faults or ["no use came to an end"] * (not self.replies)

    def wrong_data(self):
        """Return the answers that were not what was asked for, at any time."""
        return [f"wrong data: {reply}" for reply in self.replies if reply.kind == "answer" and not reply.right]
