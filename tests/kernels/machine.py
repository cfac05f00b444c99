"""An emulated machine with a kernel of its own, which runs a command in this host's file system."""

import contextlib
import re
import subprocess
import time

from tests.kernels import initramfs

QEMU = "qemu-system-x86_64"
# Its output is the second serial port, and it may write to /dev/shm only.
_COMMAND = """
exec </dev/null >/dev/ttyS1 2>&1
uname -rv
( {} )
echo exit status $?
"""


class Machine(contextlib.ExitStack):
    """A machine that runs the shell's *command* under the kernel in the directory *root*. It ends with the context."""

    def __init__(self, root, command, accelerator="tcg"):
        super().__init__()
        self._output, self._console, self._errors = root / "output", root / "console", root / "errors"
        (image,) = root.rglob("vmlinuz*")
        archive = root / "initramfs"
        archive.write_bytes(initramfs.archive(root, _COMMAND.format(command)))
        self._command = [
            *(QEMU, "-accel", accelerator, "-cpu", "max", "-m", "2048", "-nic", "none", "-display", "none"),
            *("-monitor", "none", "-no-reboot", "-kernel", image, "-initrd", archive),
            *("-append", "console=ttyS0 panic=-1 mitigations=off"),
            *("-serial", f"file:{self._console}", "-serial", f"file:{self._output}"),
            *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
            *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
        ]

    def __enter__(self):
        self._began = time.monotonic()
        self._output.unlink(missing_ok=True)  # of an earlier machine
        errors = self.enter_context(self._errors.open("w"))
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=errors)
        self.callback(self._process.wait)
        self.callback(self._process.kill)
        return self

    def seconds(self):
        """Return how long it has run."""
        return time.monotonic() - self._began

    def lines(self):
        """Return what the command has written: the kernel's name and version first."""
        return self._text().splitlines()

    def status(self):
        """Return the command's exit status; None if it has not ended."""
        found = re.search(r"^exit status (\d+)\n\Z", self._text(), re.MULTILINE)
        return int(found[1]) if found else None

    def running(self):
        """Return whether the command may still end."""
        return self.status() is None and self._process.poll() is None

    def console(self):
        """Return what qemu said, and the last lines of the kernel's console."""
        said = self._console.read_text(errors="replace").splitlines()[-15:] if self._console.exists() else []
        return [*self._errors.read_text().splitlines(), *said]

    def _text(self):
        return self._output.read_text(errors="replace") if self._output.exists() else ""
