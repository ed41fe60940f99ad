"""What the terminal and the page say alike: the rule as a formula, numbers, the facts of a group."""

from math import isnan

from .._common import Problem, printable
from ..config import MethodSettings
from .group import GroupCredit, ResponseCredit, TokenCredit

RULES = {
    "none": "A_t = A",
    "additive": "A_t = A + \N{GREEK SMALL LETTER LAMDA} d_t",
    "clipped": "d clipped and centred, A_t = A + \N{GREEK SMALL LETTER LAMDA} d_t",
    "direction_preserving": "w_t = d_t / max(1, max|d|), A_t = A + \N{GREEK SMALL LETTER LAMDA} |A| w_t",
    "controlled": "d clipped and centred, w_t = d_t / max(1, max|d|), A_t = A + \N{GREEK SMALL LETTER LAMDA} |A| w_t",
    "projection": "w = d projected onto {sum w = 0, |w_t| <= 1}, A_t = A + \N{GREEK SMALL LETTER LAMDA} |A| w_t",
    "rlsd": "A_t = A [(1 - l) + l clip(exp(sign(A) s_t), 1 - e, 1 + e)]",
}


def signed(value: float) -> str:
    """Three digits with their sign; nothing where there is no number."""
    if isnan(value):
        return ""
    if abs(value) < 0.0005:
        return "0.000"
    return f"{value:+.3f}" if abs(value) < 100 else f"{value:+.1f}"


def bounded(token: TokenCredit) -> str:
    """d_t behind the token clip, where that is another number than before it."""
    return "" if signed(token.bounded) == signed(token.evidence) else signed(token.bounded)


def facts(problem: Problem, method: MethodSettings, group: GroupCredit) -> dict[str, str]:
    """What stands above the responses: name -> text of one line or more."""
    bounds = {
        "clipped": f", clip at {method.token_clip:g}",
        "controlled": f", clip at {method.token_clip:g}",
        "rlsd": f", l {method.rlsd_mix:g}, e {method.rlsd_clip:g}",
    }
    strength = "" if method.credit in ("none", "rlsd") else f", \N{GREEK SMALL LETTER LAMDA} {method.credit_strength:g}"
    control = "" if method.credit_control == "none" else f", control: {method.credit_control}"
    gate = "" if method.entropy_gate is None else f", at the {100 * method.entropy_gate:g} % of highest entropy"
    base = "the current policy" if method.base_policy == "current" else "the reference policy"
    logged = group.logged
    found = {
        "question": printable(problem.prompt_text()),
        "reference answer": printable(problem.target()),
        "reward": f"{method.reward}, {_average(logged)}, malformed: {method.malformed}",
        "credit": f"{method.credit}{strength}{bounds.get(method.credit, '')}{gate}{control}, against {base}",
        "": RULES[method.credit],
    }
    if len(group.responses) == 1:
        found["advantage"] = "0, for a single response has no group to be compared with"
    elif logged["groups_under_min_std"]:
        found["advantage"] = f"0, the rewards differ by less than min_group_std = {method.min_group_std:g}"
    elif logged["groups_without_signal"]:
        found["advantage"] = "0, all rewards are equal"
    if "credit/clip_ratio" in logged:
        found["changed"] = (
            f"{100 * logged['credit/clip_ratio']:.1f} % of the tokens by a bound; "
            f"{100 * logged['credit/sign_flip_ratio']:.1f} % have another sign than their response"
        )
    return found


def _average(logged: dict[str, float]) -> str:
    if isnan(logged["reward"]):
        return "no response has one"
    spread = "" if isnan(logged["reward_std"]) else f" \N{PLUS-MINUS SIGN} {logged['reward_std']:.3f}"
    return f"{logged['reward']:.3f}{spread}"


def sides(method: MethodSettings) -> tuple[str, str]:
    """What a weight w_t above 0 says of a token, and what one below 0."""
    if method.credit == "rlsd":
        return "counts more than A", "counts less"
    more, less = "gains more from the answer than the response's mean token", "gains less"
    match method.credit_control:
        case "none":
            return more, less
        case "reverse":
            return less, more
        case "shuffle":
            return "more, from another token", "less"


def answer_or_reason(response: ResponseCredit) -> str:
    """What the response answers, or what is wrong with it."""
    return printable(response.own_answer) if response.malformed is None else response.malformed.replace("_", " ")


def reward(response: ResponseCredit) -> str:
    return "none" if response.reward is None else f"{response.reward:.3f}"


def clipped_count(response: ResponseCredit) -> str:
    return f"{sum(token.clipped for token in response.tokens)}" if response.credited else ""


def span(response: ResponseCredit) -> str:
    """From the least to the greatest A_t of the tokens that the loss covers."""
    values = [token.advantage for token in response.tokens if token.covered]
    if not values:
        return "no loss"
    low, high = signed(min(values)), signed(max(values))
    return low if low == high else f"{low} to {high}"
