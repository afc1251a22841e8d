"""Target expressions: which nodes of the fleet an order is for.

    expression = term (("or" | "|" | ",") term)*
    term       = factor (("and" | "&") factor)*
    factor     = ("not" | "!") factor | "(" expression ")" | atom
    atom       = "all" | "draining" | "ready" | "silent" | "gone" | "quarantined"
               | "id:" PREFIX | "name:" GLOB | "group:" GLOB | "os:" GLOB | "label:" KEY "=" GLOB
               | GLOB

A bare word is a glob over display names, or an exact node id. What stands in quotes, `'` or `"`, is
taken as it is: no operator, no word of the grammar, no glob. Labels are the effective ones
(core/label.py). `read.py` makes a tree of a text, `match.py` finds the nodes, `advise.py` helps
when there are none. Errors carry the position (from 0) of what they are about.
"""

from quarterdeck.core.target.advise import Note, notes, suggest
from quarterdeck.core.target.match import Hits, resolve, resolved, several
from quarterdeck.core.target.read import (
    MAX_DEPTH,
    MAX_LENGTH,
    MAX_WILDCARDS,
    OPERATORS,
    WORDS,
    parse,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_LENGTH",
    "MAX_WILDCARDS",
    "OPERATORS",
    "WORDS",
    "Hits",
    "Note",
    "notes",
    "parse",
    "resolve",
    "resolved",
    "several",
    "suggest",
]
