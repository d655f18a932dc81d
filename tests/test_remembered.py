"""Beam sees the same options and the same graph, whether or not it is let remember them."""

from __future__ import annotations

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, TypeOptions
from apache_beam.transforms import core, userstate
from apache_beam.typehints.decorators import IOTypeHints

from beam_jobs.build import build_run
from beam_jobs.remembered import remembered

COUNT = userstate.CombiningValueStateSpec("count", combine_fn=sum)
COUNT_PARAM = beam.DoFn.StateParam(COUNT)


class Scaled(beam.DoFn):
    """A function with arguments of its own, and a closure in one of its methods."""

    def __init__(self, by: int) -> None:
        self._by = by

    def process(self, element, offset=3, window=beam.DoFn.WindowParam):  # type: ignore[no-untyped-def]
        """One number of one."""
        yield element * self._by + offset


def graph() -> str:
    pipeline = beam.Pipeline(runner="BundleBasedDirectRunner", options=PipelineOptions([]))
    numbers = pipeline | beam.Create([1, 2, 3], reshuffle=False)
    scaled = numbers | "Twice" >> beam.ParDo(Scaled(2)) | "Thrice" >> beam.ParDo(Scaled(3), offset=5)
    _ = scaled | beam.Map(lambda number, by: number + by, by=4) | beam.Map(str) | beam.GroupBy(len)
    proto = pipeline.to_runner_api()
    for transform in proto.components.transforms.values():
        transform.spec.payload = b""  # pickles name objects by their numbers
    return str(proto.components.transforms) + str(sorted(proto.components.pcollections))


def test_the_graph_is_the_same() -> None:
    plain = graph()
    with remembered():
        assert graph() == plain
        assert graph() == plain  # now all is known


def test_views_share_the_values_of_their_options() -> None:
    first, second = PipelineOptions([]), PipelineOptions(["--direct_num_workers=3"])
    with remembered():
        first.view_as(DirectOptions).direct_num_workers = 2
        assert first.view_as(DirectOptions).direct_num_workers == 2
        assert second.view_as(DirectOptions).direct_num_workers == 3
        assert first.view_as(TypeOptions).pipeline_type_check
        assert first.view_as(DirectOptions).view_as(TypeOptions).pipeline_type_check
    assert first.view_as(DirectOptions).direct_num_workers == 2


def test_arguments_are_those_of_each_method() -> None:
    plain = core.get_function_args_defaults(Scaled(1).process)
    with remembered():
        for _ in range(2):
            names, defaults = core.get_function_args_defaults(Scaled(1).process)
            assert (names, defaults) == plain
            names.clear()  # what is given away is a copy
            defaults.clear()
        assert core.get_function_args_defaults(lambda a, b=1: a)[0] == ["a", "b"]
        assert core.get_function_args_defaults(lambda c: c)[0] == ["c"]


def test_hints_are_those_of_each_function() -> None:
    def doubled(number: int) -> int:
        return 2 * number

    class Named(beam.DoFn):
        def process(self, element: int) -> list[str]:
            return [str(element)]

    def told() -> list[object]:
        found = [IOTypeHints.from_callable(each) for each in (doubled, Named().process, Named.process, len)]
        return [None if each is None else (each.input_types, each.output_types) for each in found]

    plain = told()
    with remembered():
        assert told() == plain
        assert told() == plain
        words = beam.Pipeline(runner="BundleBasedDirectRunner") | beam.Create(["a"], reshuffle=False)
        with pytest.raises(beam.typehints.TypeCheckError, match="requires"):
            _ = words | beam.Map(doubled).with_input_types(int)


def test_beam_warns_of_functions_of_users_alone() -> None:
    def mixed(element):  # type: ignore[no-untyped-def]
        if element:
            return [element]
        yield 0

    with remembered():
        assert core._check_fn_use_yield_and_return(mixed)
        assert not core._check_fn_use_yield_and_return(build_run)


def test_state_is_that_of_each_function() -> None:
    class Counting(beam.DoFn):
        def process(self, element, count=COUNT_PARAM):  # type: ignore[no-untyped-def]
            count.add(1)
            yield element

    with remembered():
        for _ in range(2):
            assert userstate.get_dofn_specs(Counting())[0] == {COUNT}
            assert userstate.get_dofn_specs(Scaled(1)) == (set(), set())
        other = Scaled(1)
        other.finish_bundle = Counting().process  # type: ignore[method-assign]  # a method of its own
        assert userstate.get_dofn_specs(other)[0] == {COUNT}


def test_beam_is_as_before_after_an_error() -> None:
    def patched() -> list[object]:
        return [
            PipelineOptions.view_as,
            userstate.get_dofn_specs,
            core.get_function_args_defaults,
            core._check_fn_use_yield_and_return,
            vars(IOTypeHints)["from_callable"],
            vars(IOTypeHints)["_make_origin"],
        ]

    before = patched()
    with remembered():
        assert not set(map(id, before)) & set(map(id, patched()))
    assert patched() == before
    with pytest.raises(KeyError), remembered():
        raise KeyError
    assert patched() == before
