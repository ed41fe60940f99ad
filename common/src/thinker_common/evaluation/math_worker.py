"""The process in which math-verify runs: one JSON request a line in, one verdict a line out.

It is a process of its own because a comparison can run away (a tower of powers), in time and in memory, inside C code
that no exception reaches. The parent (`math_equality`) keeps the clock and starts another worker when one hangs.
"""

import json
import logging
import os
import signal
import sys
from typing import Any, TextIO

MEMORY_LIMIT = 4 << 30  # bytes of address space
POSIX = sys.platform != "win32"


def restrain() -> None:
    """Limit this process, so that a runaway comparison cannot take the machine with it."""
    if sys.platform == "linux":  # where the limit is enforced
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or hard > MEMORY_LIMIT:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, hard))
    if POSIX:
        # The default action of SIGALRM ends the process even inside C code, also when the parent is gone.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        # Ctrl-C goes to the whole foreground group; the parent decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)  # math-verify warns that its own time limit is off


class Comparer:
    """math-verify with the settings of the GeneralThinker protocol."""

    def __init__(self) -> None:
        import math_verify
        from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
        from math_verify import ExprExtractionConfig, LatexExtractionConfig

        self.math_verify = math_verify
        self.gold_forms: list[Any] = [LatexExtractionConfig(), ExprExtractionConfig()]
        # Stricter with a prediction: a malformed one is not repaired into the right one.
        strict = NormalizationConfig(
            basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all", equations=False
        )
        self.prediction_forms: list[Any] = [
            LatexExtractionConfig(boxed_match_priority=0, normalization_config=strict),
            ExprExtractionConfig(),
        ]

    def equal(self, gold: str, prediction: str, absolute: float = 0.0, relative: float = 0.0) -> bool:
        """Whether the two are one value. Neither side falls back to its raw string; gold first, it is not symmetric.

        absolute, relative: how far a number may be from the gold (the latter as a share of it) and still count
        """
        gold_values = self._parse(gold, self.gold_forms)
        prediction_values = self._parse(prediction, self.prediction_forms)
        if not gold_values or not prediction_values:
            return False
        if absolute or relative:
            numbers = [(_number(g), _number(p)) for g in gold_values for p in prediction_values]
            if any(g is not None and p is not None and near(g, p, absolute, relative) for g, p in numbers):
                return True
        return self.math_verify.verify(
            gold_values, prediction_values, float_rounding=6, numeric_precision=15, strict=True, timeout_seconds=None
        )

    def _parse(self, text: str, forms: list[Any]) -> list[Any]:
        return self.math_verify.parse(
            f"${text}$", extraction_config=forms, fallback_mode="no_fallback", parsing_timeout=None
        )


def near(gold: float, number: float, absolute: float, relative: float) -> bool:
    """Within the tolerance, the bound itself included whatever binary fractions make of it."""
    return abs(number - gold) <= max(absolute, relative * abs(gold)) * (1 + 1e-9)


def _number(value: Any) -> float | None:
    """The value of a real number, of a relation such as x = 5, or of a set of one; None for anything else."""
    import sympy  # type: ignore[import-untyped]

    if isinstance(value, sympy.Eq):
        value = value.rhs
    if isinstance(value, sympy.FiniteSet) and len(value) == 1:
        [value] = value
    return float(value) if isinstance(value, sympy.Expr) and value.is_number and value.is_real else None


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer each `{"gold", "prediction", "absolute", "relative", "seconds"}` with `{"equal": bool}`.

    A first line says whether math-verify works at all.
    """

    def reply(**fields: Any) -> None:
        print(json.dumps(fields), file=replies, flush=True)

    try:
        comparer = Comparer()
        reply(ready=comparer.equal("1", "1") and not comparer.equal("1", "2"), problem="1 = 1 is not seen as equal")
    except Exception as error:  # whatever the installation does wrong, the user has to read it
        reply(ready=False, problem=f"{type(error).__name__}: {error}")
        return
    for line in requests:
        request = json.loads(line)
        if POSIX:
            signal.alarm(request["seconds"])
        try:
            equal = comparer.equal(request["gold"], request["prediction"], request["absolute"], request["relative"])
        except Exception:  # whatever the algebra system throws at a text nobody has checked
            equal = False
        if POSIX:
            signal.alarm(0)
        reply(equal=equal)


if __name__ == "__main__":
    restrain()
    # Libraries that print would break the protocol: their standard output is the error stream from here on.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, channel)
