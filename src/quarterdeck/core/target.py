"""Target expressions: which nodes of the fleet an order is for.

    expression = term (("or" | "|" | ",") term)*
    term       = factor (("and" | "&") factor)*
    factor     = ("not" | "!") factor | "(" expression ")" | atom
    atom       = "all" | "id:" TEXT | "label:" KEY "=" GLOB | "group:" GLOB | "os:" GLOB | GLOB

A bare word is a glob over display names, or an exact node id. Errors carry the position (from 0).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from quarterdeck.core.model import Node
from quarterdeck.errors import Conflict, Invalid

Match = Callable[[Node], bool]

TOKEN = re.compile(r"\s*(?:(?P<symbol>[()!&|,])|(?P<word>[^\s()!&|,]+))")
SYMBOLS = {"&": "and", "|": "or", ",": "or", "!": "not"}
KINDS = ("id", "label", "group", "os", "name")
MAX_LENGTH = 64_000
MAX_DEPTH = 64


def parse(text: str) -> Match:
    """A predicate over nodes. Raises Invalid with the position of what can't be read."""
    if len(text) > MAX_LENGTH:
        raise Invalid("target", f"The target has {len(text)} characters; at most {MAX_LENGTH}.")
    return _Parser(text).whole()


def resolve(text: str, nodes: Iterable[Node]) -> list[Node]:
    """The nodes a target hits, sorted by name, then id.

    Raises Invalid when the text can't be read, and Conflict when a plain name (no glob, no
    operator) belongs to more than one node.
    """
    match = parse(text)
    hit = sorted((node for node in nodes if match(node)), key=lambda node: (node.name, node.id))
    if len(hit) > 1 and _plain(text):
        ids = ", ".join(node.id for node in hit)
        raise Conflict(
            "ambiguous_node", f"{len(hit)} nodes are named {text.strip()!r}: use an id ({ids})."
        )
    return hit


def suggest(text: str, nodes: Sequence[Node]) -> str:
    """A sentence that helps after a target hit nothing."""
    if not nodes:
        return "No node is enrolled yet: start one with `qd agent --join URL --token T`."
    names = sorted({node.name for node in nodes})
    close = get_close_matches(text.strip(), names, n=3)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    shown = ", ".join(names[:8])
    return f"Nodes: {shown}, and {len(names) - 8} more." if len(names) > 8 else f"Nodes: {shown}."


def _plain(text: str) -> bool:
    word = text.strip()
    return word != "all" and re.fullmatch(r"[^\s()!&|,*?\[\]:=]+", word) is not None


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, int]] = []
        position = 0
        while text[position:].strip():
            found = TOKEN.match(text, position)
            assert found is not None
            word = found["symbol"] or found["word"]
            self.tokens.append((word, found.end() - len(word)))
            position = found.end()
        self.at = 0
        self.depth = 0

    def whole(self) -> Match:
        if not self.tokens:
            raise Invalid("target", "The target is empty: name nodes, or say `all`.")
        match = self.alternatives()
        if self.at < len(self.tokens):
            word, position = self.tokens[self.at]
            raise self.error(f"{word!r} is not expected here", position)
        return match

    def alternatives(self) -> Match:
        parts = [self.together()]
        while self.take("or"):
            parts.append(self.together())
        return parts[0] if len(parts) == 1 else lambda node: any(part(node) for part in parts)

    def together(self) -> Match:
        parts = [self.factor()]
        while self.take("and"):
            parts.append(self.factor())
        return parts[0] if len(parts) == 1 else lambda node: all(part(node) for part in parts)

    def factor(self) -> Match:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Invalid("target", f"The target nests deeper than {MAX_DEPTH} levels.")
        try:
            return self.plain_factor()
        finally:
            self.depth -= 1

    def plain_factor(self) -> Match:
        if self.take("not"):
            inner = self.factor()
            return lambda node: not inner(node)
        if self.at >= len(self.tokens):
            raise self.error("a node name, label or `(` is missing", len(self.text))
        word, position = self.tokens[self.at]
        if word == "(":
            self.at += 1
            inner = self.alternatives()
            if not self.take(")"):
                raise self.error("this `(` is never closed", position)
            return inner
        if SYMBOLS.get(word, word) in ("and", "or") or word == ")":
            raise self.error(f"{word!r} is not expected here", position)
        self.at += 1
        return self.atom(word, position)

    def atom(self, word: str, position: int) -> Match:
        kind, colon, rest = word.partition(":")
        if not colon:
            if word == "all":
                return lambda node: True
            return lambda node: node.id == word or fnmatchcase(node.name, word)
        if not rest:
            raise self.error(f"`{kind}:` needs a value", position + len(word))
        match kind:
            case "id":
                return lambda node: node.id == rest
            case "name":
                return lambda node: fnmatchcase(node.name, rest)
            case "os":
                return lambda node: fnmatchcase(node.facts.os, rest)
            case "group":
                return lambda node: _has(node, "group", rest)
            case "label":
                key, equals, value = rest.partition("=")
                if not equals:
                    raise self.error("a label is written `label:KEY=VALUE`", position)
                return lambda node: _has(node, key, value)
        close = get_close_matches(kind, KINDS, n=1)
        hint = f"; did you mean `{close[0]}:`?" if close else f"; known: {', '.join(KINDS)}"
        raise self.error(f"`{kind}:` is not a kind of target{hint}", position)

    def take(self, word: str) -> bool:
        if self.at < len(self.tokens):
            present = self.tokens[self.at][0]
            if SYMBOLS.get(present, present) == word:
                self.at += 1
                return True
        return False

    def error(self, what: str, position: int) -> Invalid:
        return Invalid(
            "target", f"Target {self.text!r}, position {position}: {what}.", position=position
        )


def _has(node: Node, key: str, pattern: str) -> bool:
    values = [value.strip() for value in node.labels.get(key, "").split(",")]
    return any(value and fnmatchcase(value, pattern) for value in values)
