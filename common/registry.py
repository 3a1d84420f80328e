"""Components that a config names by id: looked up, checked with their arguments, imported as late as can be.

An id is the name of a built-in, or `package.module:attr` of the user's own code. The arguments of a built-in
have a schema, so that checking them imports nothing; a user's function is imported and its signature is the
schema. What a component is called with by the program itself (a batch of texts, a split) is no argument.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError, create_model

from common.config import Config, ConfigError, Located, Problem, closest, unknown_key, unknown_name, validate
from common.user_code import directory_kept, explain_failure, keep_directory
from common.validation import field_errors


def nothing_missing(args: Any) -> list[Problem]:
    """What a component needs that runs wherever the requirements are installed."""
    return []


@dataclass(frozen=True)
class Entry:
    """A built-in component.

    target: `module:attr`. args: schema of its keyword arguments; fields declared with `exclude=True` are read
    and checked, but not passed on. missing: what these arguments need and this machine lacks (a download, a
    folder), each with the command that gets it.
    """

    target: str
    args: type[Config] = Config
    missing: Callable[[Any], list[Problem]] = nothing_missing


@dataclass(frozen=True)
class Arguments:
    """The parameters of a function that a config sets.

    required: those without a default. open: it takes any further name (`**kwargs`).
    """

    parameters: dict[str, inspect.Parameter]
    required: set[str]
    open: bool


def arguments_after_first(signature: inspect.Signature) -> Arguments:
    """The parameters but the first, which the program fills. Raises ValueError if there is none to fill."""
    first, *rest = signature.parameters.values() or (None,)
    if first is None or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD):
        raise ValueError("it takes no positional argument")
    if first.kind is first.VAR_POSITIONAL:
        rest = [first, *rest]
    return settable_arguments(rest)


def settable_arguments(parameters: list[inspect.Parameter]) -> Arguments:
    """These parameters as arguments: only those that can be given by name."""
    by_name = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    required = {name for name, p in by_name.items() if p.default is p.empty}
    return Arguments(by_name, required, any(p.kind is p.VAR_KEYWORD for p in parameters))


class Registry:
    """The built-ins of one kind ("reward", "metric") by name; every method takes users' own functions too.

    arguments: which parameters of a user's function a config sets.
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, Entry],
        arguments: Callable[[inspect.Signature], Arguments] = arguments_after_first,
    ) -> None:
        self.kind = kind
        self.entries = dict(entries)
        self._arguments = arguments

    def check(self, name: str, args: Mapping[str, Any]) -> list[Problem]:
        """Problems of an id and its arguments, at `id` or `args.<name>`; imports only users' own modules."""
        return self._bind(name, args)[1]

    def missing(self, name: str, args: Mapping[str, Any]) -> list[Problem]:
        """What this machine lacks for a component, at the argument to change; [] if its config is wrong."""
        entry = self.entries.get(name)
        config = validate(entry.args, args)[0] if entry else None
        return _under_args(entry.missing(config)) if entry and config is not None else []

    def build(self, name: str, args: Mapping[str, Any]) -> Callable[..., Any]:
        """The component with its arguments bound. Raises ConfigError with all problems."""
        bound, problems = self._bind(name, args)
        if problems:
            raise ConfigError(
                f"{self.kind} {name!r}",
                [Located(None, problem.path, problem.message) for problem in problems],
            )
        function = self.function(name)
        if name not in self.entries:
            function = keep_directory(function, f"{self.kind} {name!r}")
        return partial(function, **bound)

    def function(self, name: str) -> Callable[..., Any]:
        """The component itself. Raises ValueError with the reason if there is none of that name."""
        entry = self.entries.get(name)
        if entry is None and ":" not in name:
            hint = (
                "" if "." not in name else f"; a {self.kind} of your own is written 'package.module:function'"
            )
            raise ValueError(unknown_name(self.kind, name, self.entries) + hint)
        function = _attribute(entry.target if entry else name)
        if inspect.isclass(function) or not callable(function):
            what = "a class" if inspect.isclass(function) else f"of type {type(function).__name__}"
            raise ValueError(f"{name!r} is {what}; a {self.kind} is a function")
        return function

    def _bind(self, name: str, args: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
        """The keyword arguments to call a component with, and the problems of its id and arguments."""
        if name in self.entries:
            config, problems = validate(self.entries[name].args, args)
            fields = type(config).model_fields.items() if config else ()
            return {key: getattr(config, key) for key, field in fields if not field.exclude}, _under_args(
                problems
            )
        try:
            function = self.function(name)
        except ValueError as error:
            return {}, [Problem("id", str(error))]
        try:
            arguments = self._arguments(inspect.signature(function))
        except ValueError as error:
            return {}, [Problem("id", f"{name!r} cannot be a {self.kind}: {error}")]
        return _check_arguments(function, arguments, args)


def _under_args(problems: list[Problem]) -> list[Problem]:
    return [
        Problem(f"args.{problem.path}" if problem.path else "args", problem.message) for problem in problems
    ]


def _attribute(target: str) -> Any:
    """The object at `module:attr`. Raises ValueError with the reason if it cannot be had."""
    module_name, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise ValueError(f"{target!r} is not of the form 'package.module:function'")
    # The working directory, as for `python -m`; last, so that nothing in it hides an installed package.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        with directory_kept(f"importing {module_name!r}"):
            value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ValueError(
                f"no module named {error.name!r}, neither installed nor in the working directory "
                f"{os.getcwd()}"
            ) from None
        raise ValueError(f"importing {module_name!r} failed: {error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # users' own code, which may even call sys.exit()
        what = f"{type(error).__name__}{explain_failure(error)}"
        raise ValueError(f"importing {module_name!r} failed: {what}") from error
    for name in attribute.split("."):
        if not hasattr(value, name):
            suggestion = closest(name, [known for known in vars(value) if not known.startswith("_")])
            hint = f"; did you mean {suggestion!r}?" if suggestion else ""
            raise ValueError(f"module {module_name!r} has no {attribute!r}{hint}")
        value = getattr(value, name)
    return value


def _check_arguments(
    function: Callable[..., Any], arguments: Arguments, args: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Problem]]:
    """The arguments as the annotations of a user's function read them, and what is wrong with them."""
    bound: dict[str, Any] = {}
    problems: list[Problem] = []
    hints = _type_hints(function)
    filled_by_the_program = inspect.signature(function).parameters.keys() - arguments.parameters.keys()
    for name, value in args.items():
        if name not in arguments.parameters and (not arguments.open or name in filled_by_the_program):
            problems.append(Problem(f"args.{name}", unknown_key(name, arguments.parameters)))
            continue
        bound[name], mismatches = _read_as(value, hints.get(name, Any))
        problems += [Problem(f"args.{name}{problem.path}", problem.message) for problem in mismatches]
    absent = [name for name in arguments.parameters if name in arguments.required - args.keys()]
    problems += [Problem(f"args.{name}", "missing; it has no default") for name in absent]
    return bound, problems


def _type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # annotations that only a type checker can resolve
        return {}


def _read_as(value: Any, hint: Any) -> tuple[Any, list[Problem]]:
    """Read a config's value as a type reads YAML (a list as a tuple), but without guesses."""
    try:
        model = create_model("Argument", __base__=Config, value=(hint, ...))
        text = json.dumps({"value": value})
    except Exception:  # a type that pydantic cannot check, a date
        return value, []
    try:
        return dict(model.model_validate_json(text, strict=True))["value"], []
    except ValidationError as error:
        return value, [
            Problem(
                "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in field_error.keys[1:]),
                field_error.message,
            )
            for field_error in field_errors(error, model)
        ]
