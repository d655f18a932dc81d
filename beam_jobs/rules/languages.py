"""The language of a text, by the model of py3langid, computed in whole numbers: the same tag on every processor.

The model is that of langid.py (Lui and Baldwin 2012): naive Bayes over byte n-grams. py3langid sums in float32, whose
last bits depend on the processor's instructions; here weights and logarithms are rounded to multiples of 2**-14 and
2**-20 first, so that every sum is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas import HeadraceError
from schemas.errors import shorten

_WEIGHT_BITS = 14
_LOG_BITS = 20
_NO_LANGUAGE = "zxx"  # what ISO 639 calls numbers and the like
_MAX_CHARACTERS = 20_000  # of a text; what follows changes no tag, and would only cost time


@dataclass(frozen=True)
class Languages:
    """Those that a text may be in.

    Attributes:
      names: ISO 639 codes, sorted.
      weights: int64 (features, classes); `priors` int64 (classes,), in units of 2**-34.
      owners: int64 (classes,), the language of each class: some are written in several scripts.
      model: what counts the features of a text.
    """

    names: list[str]
    weights: npt.NDArray[np.int64]
    priors: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    model: Any

    @staticmethod
    @lru_cache(maxsize=8)
    def of(chosen: tuple[str, ...]) -> Languages:
        """The languages of these codes; all that are known where there are none.

        Raises:
          HeadraceError: one is not known, or py3langid is not installed.
        """
        model = _model()
        known = sorted(set(model.nb_classes))
        if unknown := sorted(set(chosen) - set(known)):
            raise HeadraceError(
                "The language is not known.",
                where="clean, tag_language",
                value=", ".join(unknown),
                allowed=shorten(", ".join(known), 600),
            )
        names = sorted(set(chosen)) or known
        columns = [n for n, name in enumerate(model.nb_classes) if name in names]
        weights = np.asarray(model.nb_ptc, np.float64)[:, columns]
        priors = np.asarray(model.nb_pc, np.float64)[columns]
        return Languages(
            names,
            np.rint(weights * 2.0**_WEIGHT_BITS).astype(np.int64),
            np.rint(priors * 2.0 ** (_WEIGHT_BITS + _LOG_BITS)).astype(np.int64),
            np.array([names.index(model.nb_classes[n]) for n in columns]),
            model,
        )

    def tag(self, text: str, min_confidence: float = 0.0) -> str | None:
        """The language of a text; None where nothing tells it, or its share of the probability is less."""
        from py3langid.langid import visit_counts

        data = self.model._encode(text[:_MAX_CHARACTERS])
        counts = visit_counts(self.model.tk_nextmove, self.model._rowbase, self.model.tk_output, data)
        if not counts:
            return None
        logs = np.array([_log(count) for count in counts.values()])
        scores = logs @ self.weights[list(counts)] + self.priors
        best = np.full(len(self.names), np.iinfo(np.int64).min)
        np.maximum.at(best, self.owners, scores)
        first = int(best.argmax())  # of equals the first by name
        if min_confidence:
            # As py3langid does: by the root of the length, so that long texts are not certain of everything.
            scale = 2.0 ** -(_WEIGHT_BITS + _LOG_BITS) / math.sqrt(len(data))
            total = math.fsum(math.exp(float(score - best[first]) * scale) for score in best)
            if round(1 / total, 6) < min_confidence:
                return None
        return None if self.names[first] == _NO_LANGUAGE else self.names[first]


def version() -> str:
    """The version of the model."""
    from importlib.metadata import version as version_of

    _model()
    return f"py3langid=={version_of('py3langid')}"


@lru_cache(maxsize=4096)
def _log(count: int) -> int:
    return round(math.log1p(count) * 2**_LOG_BITS)


@lru_cache(maxsize=1)
def _model() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise HeadraceError(
            "Telling languages needs py3langid, which is not installed.",
            where="clean, tag_language",
            hint="pip install 'headrace[language]'",
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
