"""What a user may have meant: refusals of arguments that contradict each other, or belong to other programs.

Each goes through ``parser.error``, which prints one line, and exits with status 2.
"""

import argparse
import itertools
import os

from safedial._address import printable, worded
from safedial.cli.wait import targets
from safedial.cli.wait.targets import Target

# Options of wait-for-it, dockerize and others, without their dashes, and what is written here.
_INSTEAD = {
    **dict.fromkeys(("h", "host", "p", "port"), "write HOST:PORT"),
    **dict.fromkeys(("t", "timeout"), "write --timeout DURATION"),
    "q": "write --quiet",
    **dict.fromkeys(("s", "strict", "child"), "leave it out, COMMAND always runs only if all is ready"),
    "wait": "write the TARGET alone",
    **dict.fromkeys(("i", "interval", "wait-retry-interval"), "leave it out, the pauses grow to 1 s"),
}


def parse_targets(namespace: argparse.Namespace) -> list[Target]:
    """Return the targets. Refuse what is no target and no option, and say what the user may have meant."""
    words = namespace.words
    option = next((word for word in namespace.unknown if word.startswith("-")), None)
    # -h is wait-for-it's option for the host. Help exits with status 0, as if that host were ready.
    if option == "-h" == words[-1]:
        namespace.parser.print_help()
        namespace.parser.exit()
    # argparse takes one group of targets. Those behind an option are unknown to it.
    given = [*namespace.targets, *(word for word in namespace.unknown if not word.startswith("-"))]
    # What follows an unknown option may be its value.
    sure = words if option is None else words[: words.index(option)]
    here = "" if namespace.gone else "localhost"  # the usual server binds every address
    found: list[Target] = []
    for word, after in itertools.zip_longest(given, given[1:], fillvalue=""):
        if word not in sure:
            break
        try:
            found.append(targets.parse(word, os.environ, here=here))
        except ValueError as error:
            why = str(error)
            if after.isdigit() and ":" not in word:
                why = f"{worded(word)} {after}: write {worded(word)}:{after}"
            elif ":" in after and ":" not in word and not found:  # "tcp db:5432", as for wait4x
                why = f"{why}. If it is no host, leave it out"
            elif found and not namespace.command:
                why = f"{why}. If it begins the COMMAND, write -- before it"
            namespace.parser.error(why)
    if option is not None:
        _refuse_option(namespace, option)
    if not found:
        namespace.parser.error("a TARGET is required, such as db:5432")
    if namespace.command and not any(namespace.command[1:2]):  # none, or "": a variable of the shell is not set
        namespace.parser.error("a COMMAND is required after --")
    return found


def _refuse_option(namespace: argparse.Namespace, option: str) -> None:
    name = option.partition("=")[0]
    instead = _INSTEAD.get(name.lstrip("-"), "see --help")
    if instead == "see --help" and not namespace.command:
        instead += ", and write -- before a COMMAND"
    namespace.parser.error(f"there is no option {printable(name)}: {instead}")


def refuse_contradictions(namespace: argparse.Namespace, wanted: list[Target]) -> None:
    """Refuse an option that another one, or the targets, would make void."""
    refuse = namespace.parser.error
    tls = namespace.tls or any(target.tls for target in wanted)
    http = namespace.http is not None or any(target.http is not None for target in wanted)
    if namespace.gone:
        for name in ("stays", "tls", "ca", "insecure", "http", "status", "expect"):
            if getattr(namespace, name) not in (None, False):
                refuse(f"--{name} asks something of a server, but --gone waits until there is none")
    if namespace.stays and 0 < namespace.timeout <= namespace.stays:
        refuse("--stays must be shorter than --timeout")
    for name in ("ca", "insecure"):
        if getattr(namespace, name) and not tls:
            refuse(f"--{name} needs --tls, or a TARGET with TLS, such as https://web")
    if namespace.ca and namespace.insecure:
        refuse("--insecure does not check what --ca is for: leave one of them out")
    if namespace.status is not None and not http:
        refuse("--status needs --http PATH, or a TARGET with HTTP, such as http://web/health")
    if namespace.http is not None:
        if not namespace.http.startswith("/"):
            refuse('PATH begins with "/", such as --http /health')
        for target in wanted:
            if target.http not in (None, "/"):
                refuse(f"{target.name} says itself what to ask for: leave that out, or --http")
