"""The first file system of a machine: it mounts this host's root, which becomes the machine's own."""

import lzma
import re
from pathlib import Path

_INIT = Path(__file__).with_name("init.sh")
# 9p is the file system; tests use veth, and sock_diag for TCP.
_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "veth", "tcp_diag")


def archive(root, command):
    """Return the file system, with modules and busybox from *root*. The shell goes on with *command*."""
    modules = _in_order(root)
    files = {"init": _INIT.read_bytes(), "busybox": (root / "busybox").read_bytes(), "command": command.encode()}
    files["order"] = "".join(f"{name}\n" for name in modules).encode()
    files |= modules
    entries = [_entry(name, 0o040755) for name in ("dev", "host", "proc")]
    entries.append(_entry("dev/console", 0o020600, device=(5, 1)))
    entries += [_entry(name, 0o100755, content) for name, content in files.items()]
    return b"".join([*entries, _entry("TRAILER!!!", 0)])


def _in_order(root):
    """Return the content of each module's file, behind the modules that it needs. What is not found is built in."""
    found = {path.name.split(".")[0].replace("-", "_"): path for path in root.rglob("*.ko*")}
    contents = {}

    def add(name):
        if name not in contents and name in found:
            path = found[name]
            content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
            for each in re.search(rb"\0depends=([^\0]*)\0", content)[1].decode().split(","):
                add(each.replace("-", "_"))
            contents[name] = content

    for name in _MODULES:
        add(name)
    return contents


def _entry(name, mode, content=b"", device=(0, 0)):
    """Return a member of a cpio archive (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst)."""
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(head + name.encode() + b"\0") + _padded(content)


def _padded(data):
    return data + bytes(-len(data) % 4)
