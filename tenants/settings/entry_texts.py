"""The text of each entry of a runtime file, cut out without parsing it: an entry whose text is known is known.

Gives up wherever the text of an entry alone does not decide what it means, or where it would be hard to see where one
ends: anchors, several documents, odd line breaks, entries in braces. Such a file is read as a whole.
"""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Final

_BLANK: Final = r"(?: *(?:#[^\n]*)?\n)*"
_HEAD: Final = re.compile(rf"{_BLANK}overrides:(?: +#[^\n]*| *)\n{_BLANK}(?= {{1,64}}[^ #\n])")
_KEY: Final = re.compile(r"""( +)(?:'([^'"\\\n]+)'|"([^'"\\\n]+)"|([A-Za-z0-9_.][A-Za-z0-9_.()!*'-]*)):(?=[ \n]|\Z)""")
# Breaks that end a line in YAML, or an anchor: it stands where a value may begin.
_ODD: Final = re.compile("[\r\x85\u2028\u2029]|(?<![^\\s\\[\\]{},:])&")


@dataclass(frozen=True, slots=True)
class Part:
    """A file of which entries were left out.

    Attributes:
        content: the file; what is left does not stand on its former lines.
        names: tenants whose keys are in it, in order. It means what the whole does if these are its entries.
    """

    content: bytes
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EntryTexts:
    """A file in pieces.

    Attributes:
        head: everything before the first entry.
        texts: by tenant: from its key to the next one's.
    """

    head: str
    texts: Mapping[str, str]

    def without(self, known: Container[str]) -> Part:
        """Return the file without the bodies of these entries.

        The key after an entry that stays is left standing. If that entry ran on, into a text in quotes say, it would
        swallow the key, as it would in the whole file.
        """
        pieces, names = [self.head], []
        follows = False
        for name, text in self.texts.items():
            is_known = name in known
            if not is_known:
                pieces.append(text)
            elif follows and (key := _KEY.match(text)):
                pieces.append(f"{key[0]}\n")
            if follows or not is_known:
                names.append(name)
            follows = not is_known
        return Part("".join(pieces).encode(), tuple(names))


def entry_texts(content: bytes) -> EntryTexts | None:
    """Cut a file into its entries; None if that is not safe. Says nothing of whether the file is valid."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    head = _HEAD.match(text)
    if head is None or _ODD.search(text):
        return None
    indent = _first_indent(text, head.end())
    # What begins no further right than the first key begins an entry, or the file is out of the ordinary.
    starts = list(re.compile(rf"^ {{0,{indent}}}[^ #\n]", re.MULTILINE).finditer(text, head.end()))
    ends = [*(start.start() for start in starts[1:]), len(text)]
    texts: dict[str, str] = {}
    for start, end in zip(starts, ends, strict=True):
        key = _KEY.match(text, start.start())
        if key is None or len(key[1]) != indent:
            return None
        name = key[2] or key[3] or key[4]
        if name in texts:
            return None
        texts[name] = text[start.start() : end]
    return EntryTexts(head[0], texts)


def _first_indent(text: str, position: int) -> int:
    return next(index for index, character in enumerate(text[position : position + 65]) if character != " ")
