"""Peers' own test suites, run with `install()` in place as without: ``make peers``. No part of ``make test``."""
