"""YAML text as nodes with their lines: numbers as in YAML 1.2, and no more nodes than a config can have."""

from __future__ import annotations

import re

import yaml

MAX_VALUES = 100_000  # of a config, each alias counted as all that it stands for
MAX_DEPTH = 100  # levels of mappings and lists
MAX_BITS = 4096  # of a whole number: Python writes no longer ones in decimal
_TOO_LARGE = f"too large for a config: more than {MAX_VALUES:,} values, with all aliases written out"
_FLOAT, _INT, _DATE = (f"tag:yaml.org,2002:{name}" for name in ("float", "int", "timestamp"))
_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*$|0o[0-7]+$|0x[0-9a-fA-F]+$")
_DECIMAL = re.compile(
    r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)


class TooLargeError(yaml.MarkedYAMLError):
    """A document with more values than a config can have."""


class Loader(yaml.SafeLoader):
    """SafeLoader that keeps the lines of items; numbers are those of YAML 1.2, and a date is text.

    `1e-6` is a number, `012` is 12, and `1:30` is text; `1_000` stays a number, as in YAML 1.1.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.item_lines: dict[tuple[int, int], int] = {}
        self.repeated: set[int] = set()  # key nodes already reported, since aliases visit them again
        self.count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # Taken here: the node of an alias has the line of its anchor.
        mark = self.peek_event().start_mark
        self.count += 1
        if self.count > MAX_VALUES:
            raise TooLargeError(problem=_TOO_LARGE, problem_mark=mark)
        if isinstance(parent, yaml.SequenceNode):
            self.item_lines[id(parent), index] = mark.line + 1
        return super().compose_node(parent, index)


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_FLOAT, _INT, _DATE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(_INT, _INTEGER, list("-+0123456789"))
Loader.add_implicit_resolver(_FLOAT, _DECIMAL, list("-+0123456789."))  # a whole number is an integer first


def _construct_integer(loader: Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    if not _INTEGER.match(text):
        raise yaml.MarkedYAMLError(problem=f"{text!r:.60} is no whole number", problem_mark=node.start_mark)
    prefix = text[:2]
    if len(text) > MAX_BITS // 4:
        raise yaml.MarkedYAMLError(
            problem=f"a whole number of {len(text):,} characters", problem_mark=node.start_mark
        )
    return int(text[2:], {"0o": 8, "0x": 16}[prefix]) if prefix in ("0o", "0x") else int(text)


def _construct_decimal(loader: Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).replace("_", "")
    if not _DECIMAL.match(text):
        raise yaml.MarkedYAMLError(problem=f"{text!r:.60} is no number", problem_mark=node.start_mark)
    return float(text.replace(".inf", "inf").replace(".nan", "nan") if text[-1:].isalpha() else text)


Loader.add_constructor(_INT, _construct_integer)
Loader.add_constructor(_FLOAT, _construct_decimal)


def compose(text: str) -> tuple[Loader, yaml.Node | None]:
    """The one document of a text.

    Raises YAMLError, also for one that would be too large as data; RecursionError: one that is too deep.
    """
    loader = Loader(text)
    node = loader.get_single_node()
    if node is not None:
        _measure(node, {}, 0)
    return loader, node


def _measure(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """Values that a node stands for, an aliased one visited once. sizes: of the nodes so far, 0 = begun."""
    if size := sizes.get(id(node)):
        return size
    if depth > MAX_DEPTH or id(node) in sizes:
        raise RecursionError
    sizes[id(node)] = 0
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    size = 1 + sum(_measure(child, sizes, depth + 1) for child in children)
    if size > MAX_VALUES:
        raise TooLargeError(problem=_TOO_LARGE, problem_mark=node.start_mark)
    sizes[id(node)] = size
    return size
