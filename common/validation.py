"""Turns pydantic's errors into the user's words: where in the config, what was expected, what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails

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
class FieldError:
    """A field that did not validate; `suggestion` is what an unknown field was probably meant to be."""

    keys: Keys
    message: str
    suggestion: str | None = None


def field_errors(error: ValidationError, model: type[BaseModel]) -> list[FieldError]:
    """All errors that pydantic saw, one for each value; a union's are those of the branch that fits best."""
    traced = [_trace(details, model) for details in error.errors(include_url=False)]
    return [_explain(error) for error in _choose_branches(traced)]


def say_why_refused(reasons: Mapping[str, str]) -> Any:
    """Make a validator, to be an attribute of a model: it says why these unknown keys are refused."""

    def validator(cls: Any, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return handler(data)
        except ValidationError as error:
            raise _with_reasons(error, reasons) from None

    return model_validator(mode="wrap")(validator)


def _with_reasons(error: ValidationError, reasons: Mapping[str, str]) -> ValidationError:
    """The error of a model, its unknown keys with what is said of them in the place of "unknown key"."""
    details = []
    for item in error.errors(include_url=False):
        kind, location, context = item["type"], item["loc"], item.get("ctx", {})
        if kind == "extra_forbidden" and (key := str(location[0])) in reasons:
            kind, context = "value_error", {"error": ValueError(reasons[key])}
        details.append(InitErrorDetails(type=kind, loc=location, input=item["input"], ctx=context))
    return ValidationError.from_exception_data(error.title, details)


@dataclass(eq=False)
class _TracedError:
    """One of pydantic's errors and the way from the model to its place."""

    details: Any
    keys: Keys = ()
    # The unions passed: place, name of the branch taken, type of the whole union.
    branches: list[tuple[Keys, str, Any]] = field(default_factory=list)
    owner: type[BaseModel] | None = None  # model of the last field on the way
    expected: Any = Any

    def is_type_error_at(self, level: int) -> bool:
        """Whether the value as a whole is not of the branch's type: the branch says nothing more about it."""
        at_union = len(self.branches) == level + 1 and self.keys == self.branches[level][0]
        return at_union and _WRONG_TYPE.fullmatch(self.details["type"]) is not None


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


def _trace(details: Any, model: type[BaseModel]) -> _TracedError:
    """Follows pydantic's location through the types, to tell the data's keys from names of union branches."""
    error, todo, here = _TracedError(details), list(details["loc"]), model
    key_type: Any = Any  # of the last mapping
    while todo:
        bare, _ = bare_type(here)
        branches = [branch for branch in members(here) if branch is not NoneType]
        if len(branches) > 1:
            label = str(todo.pop(0))
            error.branches.append((error.keys, label, here))
            here = _branch(here, label, todo)
        elif branches[0] is not here and branches[0] is not bare:
            here = branches[0]
        elif (key := todo.pop(0)) == "[key]":
            here = key_type
        else:
            error.keys += (key,)
            error.owner = bare if is_model(bare) else None
            key_type = next(iter(get_args(bare)), Any)
            here = _element_type(bare, key)
    error.expected = here
    if details["type"].startswith("union_tag"):
        discriminator = details["ctx"]["discriminator"].strip("'")
        error.keys += (discriminator,)
        models = [bare_type(branch)[0] for branch in members(here)]
        names = [name for branch in models if is_model(branch) for name in branch_names(branch, here)]
        error.expected = Literal[tuple(names)]
    return error


def _branch(union: Any, label: str, todo: list[Any]) -> Any:
    """The branch of a union that pydantic calls `label`, as far as the rest of the location needs it."""
    for branch in members(union):
        bare, _ = bare_type(branch)
        if is_model(bare) and label in map(str, branch_names(bare, union)):
            return branch
    container = list if todo and isinstance(todo[0], int) else dict
    kinds = {get_origin(bare_type(branch)[0]): branch for branch in members(union)}
    return kinds.get(container, Any)


def _element_type(bare: Any, key: str | int) -> Any:
    if is_model(bare):
        return field_type(bare.model_fields[key]) if key in bare.model_fields else Any
    arguments = [argument for argument in get_args(bare) if argument is not Ellipsis]  # tuple[X, ...]
    return arguments[-1] if arguments else Any


def _choose_branches(errors: list[_TracedError]) -> list[_TracedError]:
    """Settle the unions from the outside in: keep the errors of one branch of each, or one error for all.

    A branch whose type fits the value goes before one that does not, then the one with the fewest errors.
    """
    level = 0
    while any(len(error.branches) > level for error in errors):
        for place in dict.fromkeys(e.branches[level][0] for e in errors if len(e.branches) > level):
            group = [e for e in errors if len(e.branches) > level and e.branches[level][0] == place]
            by_branch: dict[str, list[_TracedError]] = {}
            for error in group:
                by_branch.setdefault(error.branches[level][1], []).append(error)
            if len(by_branch) == 1:
                continue
            fitting = [b for b in by_branch.values() if not any(e.is_type_error_at(level) for e in b)]
            if fitting:
                chosen = min(fitting, key=len)
            else:
                chosen = [group[0]]
                chosen[0].expected = chosen[0].branches[level][2]
            errors = [e for e in errors if e not in group or e in chosen]
        level += 1
    return errors


def _explain(error: _TracedError) -> FieldError:
    details = error.details
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "extra_forbidden" or kind == "invalid_key":
        known = list(error.owner.model_fields) if error.owner else []
        name = str(error.keys[-1])
        return FieldError(error.keys, unknown_key(name, known), closest(name, known))
    if kind == "union_tag_invalid":
        return FieldError(error.keys, _say_wrong_type(error.expected, value[error.keys[-1]]))
    if kind in ("missing", "union_tag_not_found"):
        info = error.owner.model_fields.get(str(error.keys[-1])) if error.owner else None
        meaning = f" ({info.description})" if info and info.description and kind == "missing" else ""
        return FieldError(error.keys, f"missing; expected {type_words(error.expected)}{meaning}")
    if _WRONG_TYPE.fullmatch(kind):
        return FieldError(error.keys, _say_wrong_type(error.expected, value))
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return FieldError(error.keys, f"must be {words} {_number(context[name])}, got {show(value)}")
    if kind == "finite_number":
        return FieldError(error.keys, f"must be a finite number, got {show(value)}")
    if kind in ("too_short", "string_too_short") and context["min_length"] == 1:
        return FieldError(error.keys, "must not be empty")
    if kind in ("value_error", "assertion_error"):
        return FieldError(error.keys, str(context["error"]))
    message = f"{details['msg'][0].lower()}{details['msg'][1:]}"
    return FieldError(error.keys, f"{message}, got {_show_with_type(value)}")


def _say_wrong_type(expected: Any, value: Any) -> str:
    choices, others = _choices(expected)
    names = [choice for choice in choices if isinstance(choice, str)]
    suggestion = closest(value, names) if isinstance(value, str) else None
    hint = f"did you mean {suggestion!r}?" if suggestion else ""
    if isinstance(value, str) and names and not others:
        allowed = f"allowed: {', '.join(map(show, choices))}"
        return f"unknown value {show(value)}; " + (f"{hint} {allowed}" if hint else allowed)
    plain = [bare_type(other)[0] for other in others]
    if str in plain and isinstance(value, bool | int | float):
        hint = "put it in quotes"
    elif int in plain and isinstance(value, float) and value.is_integer():
        hint = f"write {int(value)}"
    return f"expected {type_words(expected)}, got {_show_with_type(value)}" + (f"; {hint}" if hint else "")


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


def _show_with_type(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a whole number", float: "a decimal number", str: "a string"}
    return f"{show(value)} ({kinds[type(value)]})" if type(value) in kinds else show(value)
