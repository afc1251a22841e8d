"""From the text of a target to its tree; every error says where in the text it is."""

from __future__ import annotations

import fnmatch
import re
from difflib import get_close_matches

from quarterdeck.core.model import Record
from quarterdeck.errors import Invalid

SYMBOLS = {"&": "and", "|": "or", ",": "or", "!": "not"}
OPERATORS = ("and", "or", "not")
KINDS = ("id", "label", "group", "os", "name")
STATES = ("ready", "silent", "gone", "quarantined")
WORDS = ("all", "draining", *STATES)
MAX_LENGTH = 64_000
MAX_DEPTH = 64
MAX_WILDCARDS = 500  # what they stand for is looked for in the names of a whole fleet
SHOWN = 80

SPACE = re.compile(r"\s*")
SYMBOL = re.compile(r"[()!&|,]")
PIECE = re.compile(
    r"""(?P<bare>[^\s()!&|,"']+)"""
    r"""|(?P<quote>["'])(?P<quoted>(?:\\.|(?!(?P=quote))[^\\])*)(?P=quote)""",
    re.DOTALL,
)
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
GLOB_CHARACTERS = re.compile(r"[*?\[]")


class Word(Record, frozen=True, kw_only=True):
    """A word and where it begins: `text` as it is meant, `glob` with the quoted parts escaped;
    `bare` is how much of its beginning stands in no quotes."""

    at: int
    text: str = ""
    glob: str = ""
    bare: int = 0

    @property
    def plain(self) -> bool:
        """Whether it names one thing: nothing in it stands for anything else."""
        return GLOB_CHARACTERS.search(self.glob) is None

    def after(self, count: int) -> Word:
        """The rest of it, behind `count` characters that stand in no quotes."""
        return Word(
            at=self.at + count,
            text=self.text[count:],
            glob=self.glob[count:],
            bare=max(0, self.bare - count),
        )


class Symbol(Record, frozen=True, kw_only=True):
    at: int
    text: str


class Every(Record, frozen=True, kw_only=True):
    at: int


class Draining(Record, frozen=True, kw_only=True):
    at: int


class InState(Record, frozen=True, kw_only=True):
    at: int
    state: str


class Named(Record, frozen=True, kw_only=True):
    """A display name; `or_id`: also the id that it spells out."""

    at: int
    word: Word
    or_id: bool


class WithId(Record, frozen=True, kw_only=True):
    at: int
    prefix: str


class Labelled(Record, frozen=True, kw_only=True):
    at: int
    key: str
    value: Word


class OnSystem(Record, frozen=True, kw_only=True):
    at: int
    word: Word


Atom = Every | Draining | InState | Named | WithId | Labelled | OnSystem


class Inverse(Record, frozen=True, kw_only=True):
    inner: Tree


class Both(Record, frozen=True, kw_only=True):
    parts: tuple[Tree, ...]


class Either(Record, frozen=True, kw_only=True):
    parts: tuple[Tree, ...]


Tree = Atom | Inverse | Both | Either


def parse(text: str) -> Tree:
    """The tree of a text. Raises Invalid with the position of what can't be read."""
    if len(text) > MAX_LENGTH:
        raise Invalid("target", f"The target has {len(text)} characters; at most {MAX_LENGTH}.")
    return _Parser(text).whole()


def mistake(text: str, position: int, what: str) -> Invalid:
    """An error at a place of a text, which is shown around it."""
    start = max(0, position - SHOWN // 2)
    shown = text[start : start + SHOWN]
    before, after = "..." * (start > 0), "..." * (start + SHOWN < len(text))
    return Invalid(
        "target",
        f"Target {before}{shown!r}{after}, position {position}: {what}.",
        position=position,
    )


def _words(text: str) -> list[Word | Symbol]:
    found: list[Word | Symbol] = []
    at = _past_space(text, 0)
    while at < len(text):
        if SYMBOL.match(text, at) is not None:
            found.append(Symbol(at=at, text=text[at]))
            at = _past_space(text, at + 1)
            continue
        word, end = _word(text, at)
        found.append(word)
        at = _past_space(text, end)
    return found


def _past_space(text: str, at: int) -> int:
    space = SPACE.match(text, at)
    return at if space is None else space.end()


def _word(text: str, start: int) -> tuple[Word, int]:
    """The word that begins here, and where it ends."""
    meant, glob, bare, at, only_bare = [], [], 0, start, True
    while (piece := PIECE.match(text, at)) is not None:
        if piece["bare"] is not None:
            meant.append(piece["bare"])
            glob.append(piece["bare"])
            bare += len(piece["bare"]) if only_bare else 0
        else:
            only_bare = False
            taken = ESCAPED.sub(r"\1", piece["quoted"])
            meant.append(taken)
            glob.append(re.sub(r"([*?\[])", r"[\1]", taken))
        at = piece.end()
    if at < len(text) and text[at] in "\"'":
        raise mistake(text, at, "this quote is never closed")
    return Word(at=start, text="".join(meant), glob="".join(glob), bare=bare), at


class _Parser:
    """Recursive descent over the words of one expression."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = _words(text)
        self.at = 0
        self.depth = 0
        self.wildcards = 0

    def whole(self) -> Tree:
        if not self.words:
            raise Invalid("target", "The target is empty: name nodes, or say `all`.", position=0)
        tree = self.alternatives()
        if self.at < len(self.words):
            raise self.unexpected(self.words[self.at])
        return tree

    def alternatives(self) -> Tree:
        parts = [self.together()]
        while self.take("or"):
            parts.append(self.together())
        return parts[0] if len(parts) == 1 else Either(parts=tuple(parts))

    def together(self) -> Tree:
        parts = [self.factor()]
        while self.take("and"):
            parts.append(self.factor())
        return parts[0] if len(parts) == 1 else Both(parts=tuple(parts))

    def factor(self) -> Tree:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            at = self.words[min(self.at, len(self.words) - 1)].at
            raise Invalid(
                "target", f"The target nests deeper than {MAX_DEPTH} levels.", position=at
            )
        try:
            return self.plain_factor()
        finally:
            self.depth -= 1

    def plain_factor(self) -> Tree:
        if self.take("not"):
            return Inverse(inner=self.factor())
        if self.at >= len(self.words):
            raise mistake(self.text, len(self.text), "a node name, label or `(` is missing")
        word = self.words[self.at]
        if isinstance(word, Symbol) and word.text == "(":
            self.at += 1
            inner = self.alternatives()
            if not self.take(")"):
                raise mistake(self.text, word.at, "this `(` is never closed")
            return inner
        if isinstance(word, Symbol) or _operator(word):
            raise self.unexpected(word)
        self.at += 1
        return self.atom(word)

    def atom(self, word: Word) -> Atom:
        self.wildcards += len(GLOB_CHARACTERS.findall(word.glob))
        if self.wildcards > MAX_WILDCARDS:
            what = f"a target has at most {MAX_WILDCARDS} of `*`, `?` and `[`: use a label or group"
            raise mistake(self.text, word.at, what)
        colon = word.text.find(":", 0, word.bare)
        if colon < 0:
            return self.bare_word(word)
        kind, rest = word.text[:colon], word.after(colon + 1)
        if kind in KINDS and not rest.text:
            raise mistake(self.text, rest.at, f"`{kind}:` needs a value")
        match kind:
            case "id":
                return WithId(at=word.at, prefix=rest.text)
            case "name":
                return Named(at=word.at, word=rest, or_id=False)
            case "os":
                return OnSystem(at=word.at, word=rest)
            case "group":
                return Labelled(at=word.at, key="group", value=rest)
            case "label":
                return self.label(word, rest)
        close = get_close_matches(kind, KINDS, n=1)
        hint = f"; did you mean `{close[0]}:`" if close else f"; known: {', '.join(KINDS)}"
        raise mistake(self.text, word.at, f"`{kind[:SHOWN]}:` is not a kind of target{hint}")

    def bare_word(self, word: Word) -> Atom:
        if word.bare == len(word.text) and word.text in WORDS:
            if word.text == "all":
                return Every(at=word.at)
            if word.text == "draining":
                return Draining(at=word.at)
            return InState(at=word.at, state=word.text)
        return Named(at=word.at, word=word, or_id=True)

    def label(self, word: Word, rest: Word) -> Atom:
        equals = rest.text.find("=", 0, rest.bare)
        if equals <= 0 or equals + 1 == len(rest.text):
            raise mistake(self.text, word.at, "a label is written `label:KEY=VALUE`")
        return Labelled(at=word.at, key=rest.text[:equals], value=rest.after(equals + 1))

    def take(self, operator: str) -> bool:
        if self.at < len(self.words):
            word = self.words[self.at]
            text = SYMBOLS.get(word.text, word.text) if isinstance(word, Symbol) else word.text
            if text == operator and (isinstance(word, Symbol) or _operator(word)):
                self.at += 1
                return True
        return False

    def unexpected(self, word: Word | Symbol) -> Invalid:
        what = f"{word.text[:SHOWN]!r} is not expected here"
        return mistake(self.text, word.at, what)


def _operator(word: Word) -> bool:
    return word.text in OPERATORS and word.bare == len(word.text)


def pattern(word: Word) -> re.Pattern[str]:
    """What a glob stands for."""
    return re.compile(fnmatch.translate(word.glob))
