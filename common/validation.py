"""From pydantic's findings to the user's words: where in the config, what was expected, what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from common.source import Keys, closest, unknown_key

_NAMES: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true/false values"),
    str: ("a string", "strings"),
    list: ("a list", "lists"),
    dict: ("a mapping", "mappings"),
    NoneType: ("null", "nulls"),
    Any: ("any value", "values"),
}
_LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "greater than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
    "multiple_of": ("multiple_of", "a multiple of"),
}
_WRONG_TYPE = re.compile(r"\w+_type|literal_error|none_required")


@dataclass(frozen=True)
class Fault:
    """A field that did not validate; `meant` is what an unknown field was probably meant to be."""

    keys: Keys
    message: str
    meant: str | None = None


def faults(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """All faults that pydantic found, one for each value, those of a union for the branch that fits best."""
    findings = [_trace(details, model) for details in error.errors(include_url=False)]
    return [_fault(finding) for finding in _one_branch_each(findings)]


@dataclass(eq=False)
class _Finding:
    """One of pydantic's errors and the way from the model to its place."""

    error: Any
    keys: Keys = ()
    # The unions passed: place, name of the branch taken, type of the whole union.
    branches: list[tuple[Keys, str, Any]] = field(default_factory=list)
    owner: type[BaseModel] | None = None  # model of the last field on the way
    expected: Any = Any

    def is_wrong_type_of(self, level: int) -> bool:
        """Whether the value as a whole is not of the branch's type: the branch says nothing more about it."""
        at_union = len(self.branches) == level + 1 and self.keys == self.branches[level][0]
        return at_union and _WRONG_TYPE.fullmatch(self.error["type"]) is not None


def bare_type(annotation: Any) -> tuple[Any, list[Any]]:
    """A type without `Annotated`, and the metadata (bounds, FieldInfo) that were on it."""
    metadata: list[Any] = []
    while get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        for item in extra:
            metadata += [item, *item.metadata] if isinstance(item, FieldInfo) else [item]
    return annotation, metadata


def field_type(info: FieldInfo) -> Any:
    """The type of a model's field with its metadata."""
    return Annotated[info.annotation, info]


def members(annotation: Any) -> list[Any]:
    """The branches of a union, or the type alone."""
    bare, _ = bare_type(annotation)
    return list(get_args(bare)) if get_origin(bare) in (Union, UnionType) else [annotation]


def is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def branch_names(model: type[BaseModel], union: Any) -> list[Any]:
    """What tells a model from the other branches of a union: its discriminator values, else its name."""
    _, metadata = bare_type(union)
    keys = [item.discriminator for item in metadata if isinstance(item, FieldInfo) and item.discriminator]
    return list(get_args(model.model_fields[str(keys[-1])].annotation)) if keys else [model.__name__]


def _trace(error: Any, model: type[BaseModel]) -> _Finding:
    """Follows pydantic's location through the types, to tell the data's keys from names of union branches."""
    finding, todo, here = _Finding(error), list(error["loc"]), model
    while todo:
        bare, _ = bare_type(here)
        branches = [branch for branch in members(here) if branch is not NoneType]
        if len(branches) > 1:
            label = str(todo.pop(0))
            finding.branches.append((finding.keys, label, here))
            here = _branch(here, label, todo)
        elif branches[0] is not here and branches[0] is not bare:
            here = branches[0]
        elif (key := todo.pop(0)) != "[key]":
            finding.keys += (key,)
            finding.owner = bare if is_model(bare) else None
            here = _inside(bare, key)
    finding.expected = here
    if error["type"].startswith("union_tag"):
        discriminator = error["ctx"]["discriminator"].strip("'")
        finding.keys += (discriminator,)
        models = [bare_type(branch)[0] for branch in members(here)]
        names = [name for branch in models if is_model(branch) for name in branch_names(branch, here)]
        finding.expected = Literal[tuple(names)]
    return finding


def _branch(union: Any, label: str, todo: list[Any]) -> Any:
    """The branch of a union that pydantic calls `label`, as far as the rest of the location needs it."""
    for branch in members(union):
        bare, _ = bare_type(branch)
        if is_model(bare) and label in map(str, branch_names(bare, union)):
            return branch
    container = list if todo and isinstance(todo[0], int) else dict
    kinds = {get_origin(bare_type(branch)[0]): branch for branch in members(union)}
    return kinds.get(container, Any)


def _inside(bare: Any, key: str | int) -> Any:
    if is_model(bare):
        return field_type(bare.model_fields[key]) if key in bare.model_fields else Any
    arguments = [argument for argument in get_args(bare) if argument is not Ellipsis]  # tuple[X, ...]
    return arguments[-1] if arguments else Any


def _one_branch_each(findings: list[_Finding]) -> list[_Finding]:
    """Settles the unions from the outside in: of each, the findings of one branch, or one finding for all.

    A branch whose type fits the value goes before one that does not, then the one with the fewest findings.
    """
    level = 0
    while any(len(finding.branches) > level for finding in findings):
        for place in dict.fromkeys(f.branches[level][0] for f in findings if len(f.branches) > level):
            group = [f for f in findings if len(f.branches) > level and f.branches[level][0] == place]
            by_branch: dict[str, list[_Finding]] = {}
            for finding in group:
                by_branch.setdefault(finding.branches[level][1], []).append(finding)
            if len(by_branch) == 1:
                continue
            fitting = [b for b in by_branch.values() if not any(f.is_wrong_type_of(level) for f in b)]
            if fitting:
                kept = min(fitting, key=len)
            else:
                kept = [group[0]]
                kept[0].expected = kept[0].branches[level][2]
            findings = [f for f in findings if f not in group or f in kept]
        level += 1
    return findings


def _fault(finding: _Finding) -> Fault:
    error = finding.error
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden" or kind == "invalid_key":
        known = list(finding.owner.model_fields) if finding.owner else []
        name = str(finding.keys[-1])
        return Fault(finding.keys, unknown_key(name, known), closest(name, known))
    if kind == "union_tag_invalid":
        return Fault(finding.keys, _wrong_type(finding.expected, value[finding.keys[-1]]))
    if kind in ("missing", "union_tag_not_found"):
        info = finding.owner.model_fields.get(str(finding.keys[-1])) if finding.owner else None
        meaning = f" ({info.description})" if info and info.description and kind == "missing" else ""
        return Fault(finding.keys, f"missing; expected {type_words(finding.expected)}{meaning}")
    if _WRONG_TYPE.fullmatch(kind):
        return Fault(finding.keys, _wrong_type(finding.expected, value))
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return Fault(finding.keys, f"must be {words} {_number(context[name])}, got {show(value)}")
    if kind == "finite_number":
        return Fault(finding.keys, f"must be a finite number, got {show(value)}")
    if kind in ("too_short", "string_too_short") and context["min_length"] == 1:
        return Fault(finding.keys, "must not be empty")
    if kind in ("value_error", "assertion_error"):
        return Fault(finding.keys, str(context["error"]))
    return Fault(finding.keys, f"{error['msg'][0].lower()}{error['msg'][1:]}, got {_got(value)}")


def _wrong_type(expected: Any, value: Any) -> str:
    choices, others = _choices(expected)
    names = [choice for choice in choices if isinstance(choice, str)]
    meant = closest(value, names) if isinstance(value, str) else None
    hint = f"did you mean {meant!r}?" if meant else ""
    if isinstance(value, str) and names and not others:
        allowed = f"allowed: {', '.join(map(show, choices))}"
        return f"unknown value {show(value)}; " + (f"{hint} {allowed}" if hint else allowed)
    plain = [bare_type(other)[0] for other in others]
    if str in plain and isinstance(value, bool | int | float):
        hint = "put it in quotes"
    elif int in plain and isinstance(value, float) and value.is_integer():
        hint = f"write {int(value)}"
    return f"expected {type_words(expected)}, got {_got(value)}" + (f"; {hint}" if hint else "")


def _choices(annotation: Any) -> tuple[list[Any], list[Any]]:
    """The values that a type names one by one (literals, null), and its other branches."""
    choices: list[Any] = []
    others: list[Any] = []
    for member in members(annotation):
        bare, _ = bare_type(member)
        if get_origin(bare) is Literal:
            choices += get_args(bare)
        elif bare is NoneType:
            choices.append(None)
        elif len(members(bare)) > 1:
            inner_choices, inner_others = _choices(bare)
            choices, others = choices + inner_choices, others + inner_others
        else:
            others.append(member)
    return choices, others


def type_words(annotation: Any, plural: bool = False) -> str:
    """A type as a phrase: `a whole number >= 1`, `a list of strings`, `'adam' or 'sgd'`."""
    bare, metadata = bare_type(annotation)
    if len(members(bare)) > 1 or get_origin(bare) is Literal:
        choices, others = _choices(bare)
        parts = dict.fromkeys([type_words(other, plural) for other in others] + [show(c) for c in choices])
        *first, last = parts
        return f"{', '.join(first)} or {last}" if first else last
    kind = dict if is_model(bare) else get_origin(bare) or bare
    words = _NAMES.get(kind, (f"a {getattr(kind, '__name__', kind)}",) * 2)[plural]
    if kind is list and get_args(bare):
        words += f" of {type_words(get_args(bare)[0], plural=True)}"
    return " ".join([words, " and ".join(_bounds(metadata))]).strip()


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for item in metadata:
        match item:
            case Ge(bound):
                yield f">= {_number(bound)}"
            case Gt(bound):
                yield f"> {_number(bound)}"
            case Le(bound):
                yield f"<= {_number(bound)}"
            case Lt(bound):
                yield f"< {_number(bound)}"
            case MinLen(1):
                yield "that is not empty"


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def show(value: Any) -> str:
    """A value as the user would write it, short."""
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case str() if len(value) > 60:
            return f"{value[:57]!r}..."
        case list() | dict():
            return "a list" if isinstance(value, list) else "a mapping"
    return repr(value)


def _got(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a whole number", float: "a decimal number", str: "a string"}
    return f"{show(value)} ({kinds[type(value)]})" if type(value) in kinds else show(value)
