"""Rows of a PTransform of the user's."""

from __future__ import annotations

from typing import Any

from beam_jobs.functions import function_fingerprint, load_function, user_failure
from beam_jobs.sources._code.transform import TransformRows
from schemas.sources import BeamSource


class BeamRows(TransformRows):
    """What the user's transform gives, by its dotted name; its code is the file that it is written in."""

    spec: BeamSource

    def transform(self) -> Any:
        """The user's PTransform.

        Raises:
          HeadraceError: it cannot be imported, or made.
        """
        where = f"{self.where}.transform"
        make = load_function(self.spec.transform, where)
        try:
            return make(path=self.root) if self.root else make()
        except Exception as error:
            raise user_failure(error, f"{where}, {self.spec.transform}") from error

    def fingerprint(self) -> str:
        """Content hash of the transform's code."""
        return function_fingerprint(self.spec.transform, f"{self.where}.transform")
