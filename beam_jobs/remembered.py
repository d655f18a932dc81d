"""What Beam works out anew for every transform and bundle, remembered while a pipeline is built and run.

For the graph of a job it parses the same options 200 times, looks 2,500 times at the signatures of the same methods
and 100 times at their type hints: more than half of the time that it takes by itself. Nor does it note by what way
each hint was asked for, or read the source of our own functions to see whether they `return` and `yield`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, MethodType
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core, userstate
from apache_beam.typehints.decorators import IOTypeHints

Arguments = tuple[list[str], list[Any]]


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Lets Beam remember views of options, what state functions ask for, arguments and type hints of methods."""
    view_as, specs_of = PipelineOptions.view_as, userstate.get_dofn_specs
    arguments_of, is_mixed = core.get_function_args_defaults, core._check_fn_use_yield_and_return
    hints_of, origin_of = (vars(IOTypeHints)[name] for name in ("from_callable", "_make_origin"))
    # All views of one object share its values, so one of each kind does.
    PipelineOptions.view_as = _remembering(view_as)
    userstate.get_dofn_specs = _remembering_specs(specs_of)
    core.get_function_args_defaults = _remembering_arguments(arguments_of)
    core._check_fn_use_yield_and_return = lambda function: not _is_ours(function) and is_mixed(function)
    IOTypeHints.from_callable = staticmethod(_remembering_hints(IOTypeHints.from_callable))
    IOTypeHints._make_origin = _without_callers(IOTypeHints._make_origin)
    try:
        yield
    finally:
        PipelineOptions.view_as, userstate.get_dofn_specs = view_as, specs_of
        core.get_function_args_defaults, core._check_fn_use_yield_and_return = arguments_of, is_mixed
        IOTypeHints.from_callable, IOTypeHints._make_origin = hints_of, origin_of


def _is_ours(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).partition(".")[0] == __name__.partition(".")[0]


def _remembering(function: Callable[..., Any]) -> Callable[..., Any]:
    # The object is held, since its number is that of another one when it is gone.
    known: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def remembering(about: Any, *others: Any) -> Any:
        found = known.get((id(about), *others))
        if found is None:
            found = known[id(about), *others] = about, function(about, *others)
        return found[1]

    return remembering


def _remembering_specs(specs_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    known: dict[type, Any] = {}

    def remembering(dofn: Any) -> Any:
        if any(isinstance(value, MethodType) for value in vars(dofn).values()):
            return specs_of(dofn)  # methods of its own, which others of its type do not have
        if type(dofn) not in known:
            known[type(dofn)] = specs_of(dofn)
        return known[type(dofn)]

    return remembering


def _remembering_arguments(arguments_of: Callable[[Any], Arguments]) -> Callable[[Any], Arguments]:
    known: dict[FunctionType, Arguments] = {}

    def remembering(method: Any) -> Arguments:
        function = method.__func__ if isinstance(method, MethodType) else None
        if type(function) is not FunctionType or function.__closure__ is not None:
            return arguments_of(method)  # another one each time
        if function not in known:
            known[function] = arguments_of(method)
        names, defaults = known[function]
        return [*names], [*defaults]

    return remembering


def _remembering_hints(hints_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    known: dict[tuple[int, bool], tuple[Any, Any]] = {}

    def remembering(method: Any) -> Any:
        # A method is another object each time that it is asked for, its function is not.
        bound = isinstance(method, MethodType)
        function = method.__func__ if bound else method
        found = known.get((id(function), bound))
        if found is None:
            found = known[id(function), bound] = function, hints_of(method)
        return found[1]

    return remembering


def _without_callers(origin_of: Callable[..., list[str]]) -> Callable[..., list[str]]:
    def origin(bases: list[IOTypeHints], tb: bool = True, msg: Iterable[str] = ()) -> list[str]:  # noqa: ARG001
        return origin_of(bases, tb=False, msg=msg)

    return staticmethod(origin)
