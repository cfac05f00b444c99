"""The recipes in the section "Frameworks" of docs/clients.md."""

import re
from pathlib import Path

_DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
_SECTION = _DOCUMENT.read_text().partition("\n## Frameworks\n")[2].partition("\n## ")[0]
# The code below each heading.
RECIPES = dict(re.findall(r"^### (.+)\n(?:(?!#|```).*\n)*```python\n((?:(?!```).*\n)+)", _SECTION, re.MULTILINE))

_INSTALL = re.compile(r"^safedial\.install\(.*\)\n|, initializer=safedial\.install", re.MULTILINE)


def without_install(recipe):
    """Return *recipe* without what makes it safe."""
    plain = _INSTALL.sub("", recipe)
    assert plain != recipe, "no install()"
    return plain
