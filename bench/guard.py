"""What the guard costs a connect that it does not guard, and one that it does.

    python -m bench.guard [rounds]

Side by side in one run, in turn; microseconds and ratios of medians. The connect that is not guarded
asks a socket that is connected already, where the kernel answers at once, so that the rest shows.
"""

import platform
import socket
import statistics
import sys
import threading
import time

import safedial

CALLS = 2000


def per_call(function):
    began = time.perf_counter()
    for _ in range(CALLS):
        function()
    return (time.perf_counter() - began) / CALLS * 1e6


def in_turn(contenders, rounds):
    """Medians of *rounds*, in microseconds. A contender is (prepare, function, restore)."""
    taken = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (context, function) in contenders.items():
            with context():
                taken[name].append(per_call(function))
    return {name: statistics.median(times) for name, times in taken.items()}


class GuardedElsewhere:
    """Another thread is inside of a guard, so connect is replaced."""

    def __enter__(self):
        self.inside, self.over = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.guarded)
        self.thread.start()
        self.inside.wait()

    def guarded(self):
        with safedial.guard():
            self.inside.set()
            self.over.wait()

    def __exit__(self, *error):
        self.over.set()
        self.thread.join()


class Nothing:
    def __enter__(self):
        pass

    def __exit__(self, *error):
        pass


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:
        address = server.getsockname()

        def again():
            connected.connect_ex(address)  # EISCONN

        def dial():
            with socket.socket() as sock:
                sock.connect_ex(closed)

        with socket.create_connection(address) as connected, socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            closed = holder.getsockname()
            found = in_turn(
                {
                    "not guarded, nobody guards": (Nothing, again),
                    "not guarded, another thread guards": (GuardedElsewhere, again),
                    "refused, nobody guards": (Nothing, dial),
                    "refused, guarded": (safedial.guard, dial),
                },
                rounds,
            )
    print(f"\nPython {platform.python_version()}, {rounds} rounds of {CALLS} calls each")
    for name, microseconds in found.items():
        print(f"  {name:38} {microseconds:7.2f} us")
    bare, elsewhere, refused, guarded = found.values()
    print(f"  the guard on a connect that it does not guard: {elsewhere - bare:.2f} us more")
    print(f"  the guard on a refused dial of a bare socket: {guarded / refused:.2f} times")


if __name__ == "__main__":
    main()
