"""Packages of any suite of Debian, unpacked beside the system. apt reads lists of its own, and installs nothing."""

import re
import subprocess
from pathlib import Path

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PARTS = re.compile(r"Depends: (linux-(?:image|binary|modules)-\S+)")


class CannotRunError(Exception):
    """What is missing, in words."""


class Suite:
    """The packages of a suite. apt's files are in *directory*.

    Attributes:
        root: the directory where packages are unpacked.
    """

    def __init__(self, name, directory):
        self.root, self._packages = directory / "root", directory / "packages"
        for each in (self.root, self._packages, directory / "lists/partial", directory / "cache/archives/partial"):
            each.mkdir(parents=True)
        sources = directory / "sources.list"
        sources.write_text(f"deb [signed-by={_KEYRING}] {_mirror()} {name} main\n")
        options = {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": directory / "lists",
            "Dir::State::Status": "/dev/null",
            "Dir::Cache": directory / "cache",
            "Acquire::Languages": "none",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",  # the user _apt can't write here
        }
        self._options = [f"-o{key}={value}" for key, value in options.items()]
        self._apt("apt-get", "update", "-q", "--error-on=any")

    def kernel(self):
        """Return the names of the newest kernel's packages: the kernel, and its modules."""
        found, waiting = set(), ["linux-image-amd64"]
        while waiting:
            package = waiting.pop()
            found.add(package)
            waiting += set(_PARTS.findall(self._apt("apt-cache", "depends", package))) - found
        return found

    def unpack(self, *packages):
        """Unpack *packages* in `root`."""
        self._apt("apt-get", "download", "-q", *packages)
        for package in self._packages.iterdir():
            call("dpkg", "-x", package, self.root)
            package.unlink()

    def _apt(self, program, *arguments):
        return call(program, *self._options, *arguments, directory=self._packages)


def _mirror():
    if not _KEYRING.exists():
        raise CannotRunError(f"there is no {_KEYRING}: apt-get install debian-archive-keyring")
    # The one that this machine uses.
    said = call("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian")
    uris = [uri for uri in said.split() if "security" not in uri]
    if not uris:
        raise CannotRunError("apt knows no mirror of Debian: run apt-get update, on Debian")
    return uris[0]


def call(*command, directory=None):
    """Run *command* and return what it said."""
    try:
        done = subprocess.run(
            list(map(str, command)),
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
    except OSError as error:
        raise CannotRunError(f"{command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise CannotRunError(f"{command[0]} took longer than 300 s") from None
    if done.returncode:
        raise CannotRunError(f"{command[0]} failed:\n{done.stdout[-2000:]}")
    return done.stdout
