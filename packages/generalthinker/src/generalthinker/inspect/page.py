"""The group as one HTML page that opens offline: no scripts, light and dark, everything a model wrote escaped."""

from importlib.resources import files
from math import isnan
from pathlib import Path
from typing import Any

from .._common import Problem, write_atomic
from ..config import MethodSettings
from . import words
from .group import GroupCredit, ResponseCredit, TokenCredit

# What the tokens can be coloured by: key of the page -> (name, what it is)
QUANTITIES = {
    "w": ("w_t", "the weight that the rule gives the token, after control"),
    "b": ("d_t bounded", "the evidence behind the token clip"),
    "d": ("d_t", "the evidence as the rule takes it, before control"),
    "s": ("s_t", "log-probability with the answer shown less that of the base policy without it, nats"),
    "a": ("A_t", "the advantage that the loss multiplies with"),
}


def write_group_page(path: Path, problem: Problem, method: MethodSettings, group: GroupCredit) -> None:
    """Writes the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lone surrogate, which a command line can hold, is no UTF-8.
    write_atomic(path, render_group_page(problem, method, group).encode(errors="replace").decode())


def render_group_page(problem: Problem, method: MethodSettings, group: GroupCredit) -> str:
    from jinja2 import Environment

    chosen = ["s", "a"] if method.credit == "none" else [*QUANTITIES]
    if method.credit not in ("clipped", "controlled"):
        chosen = [key for key in chosen if key != "b"]
    limits = {
        key: max((abs(v) for r in group.responses for t in r.tokens if not isnan(v := _values(t)[key])), default=0.0)
        for key in QUANTITIES
    }
    template = files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8")
    return (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            facts=words.facts(problem, method, group),
            quantities=[(key, *QUANTITIES[key], f"{limits[key]:.3g}") for key in chosen],
            responses=[_response(response, limits) for response in group.responses],
            logged=[(name, "none" if isnan(value) else f"{value:.4g}") for name, value in group.logged.items()],
            with_answer_logprob=method.reward != "likelihood",
        )
    )


def _response(response: ResponseCredit, limits: dict[str, float]) -> dict[str, Any]:
    return {
        "answer": words.answer_or_reason(response),
        "malformed": response.malformed is not None,
        "reward": words.reward(response),
        "answer_logprob": "" if response.answer_logprob is None else f"{response.answer_logprob:.3f}",
        "advantage": words.signed(response.advantage),
        "sign": _sign(response.advantage),
        "reasoning": response.reasoning_length if response.malformed is None else "",
        "clipped": words.clipped_count(response),
        "flipped": response.flipped if response.credited else "",
        "span": words.span(response),
        "tokens": [_token(token, limits) for token in response.tokens],
    }


def _token(token: TokenCredit, limits: dict[str, float]) -> dict[str, Any]:
    values = _values(token)
    shares = {key: 0.0 if isnan(v) or not limits[key] else v / limits[key] for key, v in values.items()}
    numbers = {key: words.signed(value) for key, value in values.items()}
    read = [f"{QUANTITIES[key][0]} {numbers[key]}" for key in ("s", "d", "b", "w") if numbers[key]]
    return {
        "lines": token.text.split("\n"),
        "style": "; ".join(f"--{key}: {share:.3f}" for key, share in shares.items() if round(share, 3)),
        "numbers": numbers | {"b": words.bounded(token)},
        "read": "   ".join([*read, f"A_t {numbers['a']}" if token.covered else "no loss"]),
        "clipped": token.clipped,
        "covered": token.covered,
        "credited": token.credited,
    }


def _values(token: TokenCredit) -> dict[str, float]:
    return {
        "w": token.weight,
        "b": token.bounded,
        "d": token.evidence,
        "s": token.log_ratio,
        "a": token.advantage,
    }


def _sign(value: float) -> str:
    return "p" if value > 0 else "n" if value < 0 else ""
