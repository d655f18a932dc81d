"""What a job's plan knows of its transform. Nothing here imports TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from beam_jobs.plan import JobPlan, TransformPlan
from beam_jobs.transform.look import look
from schemas import HeadraceError
from schemas.features import Feature, ImageFeature
from schemas.hashing import fingerprint

_LIBRARIES = ("tensorflow", "tensorflow-transform", "tfx-bsl")


def taken(features: Mapping[str, Feature]) -> dict[str, Feature]:
    """The features that a preprocessing_fn gets: all but images, which pass by it."""
    return {name: feature for name, feature in features.items() if not isinstance(feature, ImageFeature)}


def plan_transform(plan: JobPlan) -> JobPlan:
    """The plan with what its transform comes to: the function is traced, against the features' types alone.

    Raises:
      HeadraceError: the packages are missing, or the function does not do; see `beam_jobs.transform.graph`.
    """
    transform = plan.spec.transforming
    if transform is None:
        return plan
    libraries = [f"{name}=={installed(name)}" for name in _LIBRARIES]
    found = look(plan.spec, plan.features)
    name = fingerprint(
        plan.code,
        libraries,
        plan.preprocessing,
        transform.model_dump(by_alias=True, mode="json", exclude={"materialize"}),
        {name: feature.model_dump(by_alias=True, mode="json") for name, feature in plan.features.items()},
        plan.packing,
        found.analysers,
    )
    return replace(plan, transform=TransformPlan(name, found.phases, found.features))


def installed(name: str) -> str:
    """The version of a package that the transform needs.

    Raises:
      HeadraceError: it is not installed.
    """
    try:
        return version(name)
    except PackageNotFoundError as error:
        raise HeadraceError(
            "This job has a tf-transform step, which needs a package that is not installed.",
            where="transform",
            value=name,
            hint="pip install 'headrace[transform]', in an environment of its own: it holds other packages back.",
        ) from error
