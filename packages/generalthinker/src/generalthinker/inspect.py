"""The method's picture: the token credit of one response."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ._common import (
    AnswerScorer,
    Generator,
    Problem,
    ScoringItem,
    TokenHeat,
    UserError,
    chat,
    split_response,
    token_logprobs,
    write_report,
)
from .config import MethodSettings
from .credit import controlled
from .data import training_row

# T tokens of the response


@dataclass(frozen=True)
class ResponseCredit:
    """One response and the credit of its tokens.

    tokens: their texts, (T,)
    log_ratios: s_t, conditioned minus base log-probability in nats, (T,)
    weights: w_t of `credit: controlled`, from -1 to 1; 0 behind the reasoning, and everywhere in a malformed response
    reasoning_length: how many of the tokens are reasoning (y_R)
    reward: log pi(a* | x, y_R) in nats; None if the response is malformed
    malformed: what is wrong with it, or None
    """

    tokens: list[str]
    log_ratios: list[float]
    weights: list[float]
    reasoning_length: int
    reward: float | None
    malformed: str | None


def inspect_response(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problem: Problem,
    method: MethodSettings,
    *,
    chat_template: str = "auto",
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
) -> ResponseCredit:
    """Lets the policy answer, and computes what training would make of the response."""
    row = training_row(problem, problem.target(), method)
    prompt = chat.render_prompt(tokenizer, row["prompt"], chat_template=chat_template)
    conditioned = chat.render_prompt(
        tokenizer, row["conditioned_prompt"], chat_template=chat_template, assistant_prefix=row["assistant_prefix"]
    )
    generator = Generator(policy, tokenizer, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    [generation] = generator.generate([prompt])
    response = list(generation.token_ids)
    if not response:
        raise UserError("the model ends its response at once: there is nothing to draw (sample with --temperature 1)")
    split = split_response(tokenizer, response, truncated=generation.truncated)
    with torch.no_grad():
        s_T = _logprobs(policy, conditioned, response) - _logprobs(reference, prompt, response)
    mask_BT = (torch.arange(len(response), device=s_T.device) < split.reasoning_length).unsqueeze(0)
    credit = controlled(
        s_T.unsqueeze(0),
        mask_BT & split.well_formed,
        torch.ones(1, device=s_T.device),
        strength=method.credit_strength,
        token_clip=method.token_clip,
    )
    reward = None
    if split.well_formed:
        item = ScoringItem(prompt, response[: split.reasoning_length], problem.target(), "}", split.opening)
        [score] = AnswerScorer(policy, tokenizer, closing=method.closing).score([item])
        reward = score.sum
    return ResponseCredit(
        tokens=token_texts(tokenizer, response),
        log_ratios=s_T.tolist(),
        weights=credit.weights_BT[0].tolist(),
        reasoning_length=split.reasoning_length,
        reward=reward,
        malformed=split.reason,
    )


def _logprobs(model: PreTrainedModel, prompt: list[int], response: list[int]) -> torch.Tensor:
    input_ids_BT = torch.tensor([prompt + response], device=model.device)
    return token_logprobs(model, input_ids_BT, torch.ones_like(input_ids_BT), keep=len(response))[0]


def printable(text: str) -> str:
    """A model's text without the control characters that would drive a terminal; line breaks and tabs stay."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}" for c in text)


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of every token on its own."""
    return [printable(str(tokenizer.decode([token]))) for token in ids]


def coloured(credit: ResponseCredit) -> Text:
    """The response for a terminal: blue where the answer speaks for a token, red where it speaks against it."""
    text = Text()
    for position, (token, weight) in enumerate(zip(credit.tokens, credit.weights, strict=True)):
        if position >= credit.reasoning_length:
            text.append(token, style="dim")
            continue
        fade = round(255 * (1 - min(1.0, abs(weight))))
        background = f"rgb({fade},{fade},255)" if weight >= 0 else f"rgb(255,{fade},{fade})"
        text.append(token, style=f"black on {background}")
    return text


def heat(credit: ResponseCredit, title: str, note: str = "") -> TokenHeat:
    """The response for a report."""
    return TokenHeat(title=title, tokens=credit.tokens, values=credit.weights, note=note, limit=1.0)


def describe(credit: ResponseCredit, problem: Problem) -> dict[str, Any]:
    """What stands beside the picture."""
    reasoning = credit.log_ratios[: credit.reasoning_length]
    return {
        "question": printable(problem.prompt_text()),
        "reference answer": printable(problem.target()),
        "reward (log-likelihood of the answer, nats)": "none" if credit.reward is None else f"{credit.reward:.3f}",
        "malformed": credit.malformed or "no",
        "mean log-ratio of the reasoning (nats)": f"{sum(reasoning) / len(reasoning):.3f}" if reasoning else "none",
    }


def show(credit: ResponseCredit, problem: Problem, output: Path | None, console: Console) -> None:
    """Prints the picture, and writes it to a self-contained page if `output` names one."""
    for name, value in describe(credit, problem).items():
        console.print(Text(f"{name}: ", style="bold") + Text(value))
    console.print()
    console.print(coloured(credit))
    if output is not None:
        note = "Blue: the reference answer makes the token more likely. Red: less likely. Hover for the weight."
        facts = [f"{name}: {value}" for name, value in describe(credit, problem).items()]
        write_report(output, "Token credit", "\n".join(facts), [heat(credit, "Response", note)])
        console.print(f"\npage: {output}", highlight=False)
