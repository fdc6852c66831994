"""Prompts with alternatives, `a {red|blue} ball`: one picked by a seed, or all of them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator

import torch

from t2v.errors import UserError, shortened

MOST = 1000  # prompts that one template may become
DEEPEST = 16  # alternatives in each other
SIGN = re.compile(r"\\.|[{}|]", re.DOTALL)  # an escaped sign is none

# text, or the alternatives in its place, each a row of such
Node = str | list["Row"]
Row = list[Node]


def all_of(prompt: str) -> list[str]:
    """Every prompt that a template stands for, the last alternatives changing fastest.

    Raises:
        UserError: there are more than 1,000, or alternatives lie more than 16 deep.
    """
    row = _read(prompt)
    if (count := _count(row)) > MOST:
        raise UserError(
            f"prompt {shortened(prompt, 60)!r}: stands for {count:,} prompts, and {MOST:,} are the "
            "most. Leave alternatives out, or have one picked: prompting.templates=pick."
        )
    return list(_every(row))


def pick(prompt: str, generator: torch.Generator) -> str:
    """One of the prompts that a template stands for, each alternative as likely as the others.

    Raises:
        UserError: alternatives lie more than 16 deep.
    """
    return _picked(_read(prompt), generator)


def _read(prompt: str) -> Row:
    """The row of a prompt; braces without a `|`, and those that are not closed, are text."""
    stack: list[list[Row]] = [[[]]]  # of each open brace: its alternatives so far
    place = 0
    for sign in SIGN.finditer(prompt):
        stack[-1][-1].append(prompt[place : sign.start()])
        place = sign.end()
        if sign[0] == "{":
            stack.append([[]])
            if len(stack) > DEEPEST + 1:
                raise UserError(
                    f"prompt {shortened(prompt, 60)!r}: its braces lie more than {DEEPEST} deep. "
                    r"Leave some out, or write plain ones as \{ and \}."
                )
        elif sign[0] == "|" and len(stack) > 1:
            stack[-1].append([])
        elif sign[0] == "}" and len(stack) > 1:
            alternatives = stack.pop()
            if len(alternatives) > 1:
                stack[-1][-1].append(alternatives)
            else:
                stack[-1][-1] += ["{", *alternatives[0], "}"]
        else:
            stack[-1][-1].append(sign[0])
    stack[-1][-1].append(prompt[place:])
    while len(stack) > 1:  # never closed
        first, *others = stack.pop()
        stack[-1][-1] += ["{", *first, *(node for row in others for node in ("|", *row))]
    return stack[0][0]


def _count(row: Row) -> int:
    return math.prod(sum(map(_count, node)) for node in row if not isinstance(node, str))


def _every(row: Row) -> Iterator[str]:
    choices = [
        [node] if isinstance(node, str) else [text for each in node for text in _every(each)]
        for node in row
    ]
    yield from map("".join, itertools.product(*choices))


def _picked(row: Row, generator: torch.Generator) -> str:
    parts = []
    for node in row:
        if isinstance(node, str):
            parts.append(node)
        else:
            number = int(torch.randint(len(node), (), generator=generator))
            parts.append(_picked(node[number], generator))
    return "".join(parts)
