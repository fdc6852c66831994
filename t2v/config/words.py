"""The words of every setting, read from the comment beside its field."""

from __future__ import annotations

import ast
import inspect
import tokenize
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, cast, get_type_hints


def setting_words(schema: type) -> dict[str, str]:
    """Return the words of every setting of `schema` by its dotted name; "" where there are none.

    They stand once, in the source: behind the field, or in the lines of comment right above it. A
    dataclass that gives a field another default and no comment keeps the words of its base.
    """
    hints, own = get_type_hints(schema), _own_words(schema)
    found: dict[str, str] = {}
    for each in fields(cast(Any, schema)):
        hint = hints[each.name]
        if is_dataclass(hint):
            group = setting_words(cast(type, hint))
            found |= {f"{each.name}.{name}": words for name, words in group.items()}
        else:
            found[each.name] = own.get(each.name, "")
    return found


@cache
def _own_words(schema: type) -> dict[str, str]:
    """The comments of the fields of `schema` and its bases, the nearest class last."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if is_dataclass(base):
            found |= _comments(inspect.getsource(base))
    return found


def _comments(source: str) -> dict[str, str]:
    lines = source.splitlines(keepends=True)
    behind, above = dict[int, str](), dict[int, str]()
    for token in tokenize.generate_tokens(iter(lines).__next__):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            alone = not token.line[:column].strip()
            (above if alone else behind)[line] = token.string.lstrip("# ").rstrip()
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    words = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            block, line = list[str](), node.lineno - 1
            while line in above:
                block.insert(0, above[line])
                line -= 1
            text = behind.get(node.lineno) or " ".join(block)
            if text:
                words[node.target.id] = text
    return words
