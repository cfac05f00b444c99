"""What a user may have meant: refusals of arguments that contradict each other, or belong to other programs.

Each goes through ``parser.error``, which prints one line, and exits with status 2.
"""

import argparse
import itertools
import os

from safedial._address import printable, worded
from safedial.cli.wait import targets
from safedial.cli.wait.targets import Target

# wait-for-it's options. argparse must know them, or the words behind them would be targets; no help text shows them.
# -h, its host, can't be ours: help exits with status 0, as if that host were ready.
FOREIGN = ("-h", "-p", "-t", "-q", "-s")


def refuse_foreign(namespace: argparse.Namespace) -> None:
    """Print the help for -h; refuse wait-for-it's options, and say what they are called here."""
    given = {flag: value for flag in FOREIGN if (value := getattr(namespace, flag[1:])) is not None}
    if not given:
        return
    if given == {"-h": ""}:
        namespace.parser.print_help()
        namespace.parser.exit()
    host, port, seconds = (worded(given[flag]) if given.get(flag) else "" for flag in ("-h", "-p", "-t"))
    ours = [f"{host or 'HOST'}:{port or 'PORT'}"] if host or port else []
    ours += [f"--timeout {seconds or 'DURATION'}"] if "-t" in given else []
    ours += ["--quiet"] if "-q" in given else []
    instead = f"write {' '.join(ours)}" if ours else "leave it out, COMMAND always runs only if all is ready"
    namespace.parser.error(f"wait-for-it's {' '.join(given)}: {instead}")


def parse_targets(namespace: argparse.Namespace) -> list[Target]:
    """Return the targets. Refuse what is no target and no option, and say what the user may have meant."""
    # argparse takes one group of targets. Those behind an option are unknown to it.
    words = [*namespace.targets, *(word for word in namespace.unknown if not word.startswith("-"))]
    options = [word.partition("=")[0] for word in namespace.unknown if word.startswith("-")]
    found: list[Target] = []
    for word, after in itertools.zip_longest(words, words[1:], fillvalue=""):
        try:
            found.append(targets.parse(word, os.environ))
        except ValueError as error:
            why = str(error)
            if after.isdigit() and ":" not in word:
                why = f"{worded(word)} {after}: write {worded(word)}:{after}"
            elif found and not namespace.command:
                why = f"{why}. If it begins the COMMAND, write -- before it"
            namespace.parser.error(why)
    if options:  # later than the targets: it may be an option of a COMMAND without "--"
        namespace.parser.error(f"unrecognized arguments: {printable(' '.join(options))}")
    if not found:
        namespace.parser.error("a TARGET is required, such as db:5432")
    if namespace.command[:1] and not namespace.command[1:]:
        namespace.parser.error("a COMMAND is required after --")
    return found


def refuse_contradictions(namespace: argparse.Namespace, wanted: list[Target]) -> None:
    """Refuse an option that another one, or the targets, would make void."""
    refuse = namespace.parser.error
    tls = namespace.tls or any(target.tls for target in wanted)
    http = namespace.http is not None or any(target.http is not None for target in wanted)
    if namespace.gone:
        for name in ("stays", "tls", "ca", "insecure", "http", "status", "expect"):
            if getattr(namespace, name) not in (None, False):
                refuse(f"--{name} asks something of a server, but --gone waits until there is none")
    for name in ("ca", "insecure"):
        if getattr(namespace, name) and not tls:
            refuse(f"--{name} needs --tls, or a TARGET with TLS, such as https://web")
    if namespace.ca and namespace.insecure:
        refuse("--insecure does not check what --ca is for: leave one of them out")
    if namespace.status is not None and not http:
        refuse("--status needs --http PATH, or a TARGET with HTTP, such as http://web/health")
    if namespace.http is not None and not namespace.http.startswith("/"):
        refuse('PATH begins with "/", such as --http /health')
