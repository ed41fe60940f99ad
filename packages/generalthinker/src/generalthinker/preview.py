r"""`generalthinker data preview`: training problems as the trainer reads them, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from datasets import Dataset
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from ._common import (
    LoadedBenchmark,
    Problem,
    UserError,
    chat,
    encode_answer,
    encode_mid_text,
    load_config,
    load_tokenizer,
    printable,
    split_response,
)
from .config import MethodSettings, Settings
from .data import training_data, training_row
from .inspect.tokens import UNFINISHED, token_texts
from .policy import check_causal, positions
from .rollout import Rollout, loss_mask, reasoning_mask

MARK = "ANSWER-GOES-HERE"
NO_STEPS = "(The reasoning stands here.)"


@dataclass(frozen=True)
class PromptTokens:
    """A prompt. texts: of its tokens; answer: places of those that hold characters of the reference answer."""

    ids: Sequence[int]
    texts: list[str]
    answer: range


@dataclass(frozen=True)
class ScoredToken:
    r"""A token that is scored behind `\boxed{`. holds: "opening", "answer", "closing", or several of them."""

    text: str
    holds: str


@dataclass(frozen=True)
class ResponseToken:
    """A token of a response. loss: the loss covers it; credit: it has an advantage of its own."""

    text: str
    loss: bool
    credit: bool


@dataclass(frozen=True)
class Preview:
    """What the trainer makes of one problem.

    prompt, conditioned: x and x+
    scored: the reference answer behind the reasoning of `response`
    response: the problem's reference steps and its answer in a box, as the policy might have written them
    malformed: why that is no well-formed response, None if it is one
    """

    prompt: PromptTokens
    conditioned: PromptTokens
    scored: list[ScoredToken]
    response: list[ResponseToken]
    malformed: str | None


def preview(
    problem: Problem, answer: str, method: MethodSettings, tokenizer: PreTrainedTokenizerBase, *, chat_template: str
) -> Preview:
    """answer: the one that training takes for right."""
    row, marked = (training_row(problem, shown, method) for shown in (answer, MARK))
    prompt_ids = chat.render_prompt(tokenizer, row["prompt"], chat_template=chat_template)
    conditioned_ids, marked_ids = (
        chat.render_prompt(
            tokenizer, one["conditioned_prompt"], chat_template=chat_template, assistant_prefix=one["assistant_prefix"]
        )
        for one in (row, marked)
    )
    conditioned = token_texts(tokenizer, conditioned_ids)

    ids = encode_mid_text(tokenizer, example_response(problem))
    if isinstance(tokenizer.eos_token_id, int):
        ids.append(tokenizer.eos_token_id)
    split = split_response(tokenizer, ids, truncated=False)
    rollout = Rollout([prompt_ids], [ids], [split], [False])
    covered_T = loss_mask(rollout, reward=method.reward, malformed=method.malformed)[0]
    credited_T = reasoning_mask(rollout)[0] & (method.credit != "none")
    return Preview(
        PromptTokens(prompt_ids, token_texts(tokenizer, prompt_ids), range(0)),
        PromptTokens(
            conditioned_ids, conditioned, _answer_places(conditioned, _joined(token_texts(tokenizer, marked_ids)))
        ),
        scored_tokens(tokenizer, answer, opening=split.opening, closing=method.closing),
        [
            ResponseToken(text, bool(loss), credit)
            for text, loss, credit in zip(
                token_texts(tokenizer, ids), covered_T.tolist(), credited_T.tolist(), strict=True
            )
        ],
        split.reason,
    )


def example_response(problem: Problem) -> str:
    """The problem's reference steps, a line each, and its answer in a box unless they have one."""
    steps = "\n".join(problem.steps) or NO_STEPS
    return steps if r"\boxed{" in steps else f"{steps}\n\\boxed{{{problem.target()}}}"


def scored_tokens(tokenizer: PreTrainedTokenizerBase, answer: str, *, opening: str, closing: str) -> list[ScoredToken]:
    """The tokens whose log-probabilities are the answer's score. opening: of the response; closing: `method.closing`"""
    encoded = encode_answer(tokenizer, answer, opening=opening)
    found = []
    end = 0
    for text, in_answer, in_closing in zip(
        token_texts(tokenizer, encoded.ids), encoded.answer_mask, encoded.closing_mask, strict=True
    ):
        begin, end = end, end + len(_joined([text]))
        opens = begin < len(opening)
        parts = {"opening": opens, "answer": in_answer and not (opens and end <= len(opening)), "closing": in_closing}
        if in_answer or closing != "none":
            found.append(ScoredToken(text, " + ".join(name for name, held in parts.items() if held)))
    return found


def prompt_lengths(
    rows: Dataset, column: str, tokenizer: PreTrainedTokenizerBase, *, chat_template: str, prefixed: bool = False
) -> list[int]:
    """Tokens of the prompts in a column, with the template around them.

    The texts are tokenized at once and the template is counted on the first, since rendering thousands of prompts takes
    far longer: a prompt whose ends merge with the template unlike the first's is a token off.
    """

    def counts(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]

    lengths = counts(list(rows[column]))
    first = chat.render_prompt(tokenizer, rows[0][column], chat_template=chat_template)
    around = len(first) - lengths[0]
    prefixes = counts(list(rows["assistant_prefix"])) if prefixed else [0] * len(lengths)
    return [length + around + prefix for length, prefix in zip(lengths, prefixes, strict=True)]


def show_preview(settings: Settings, index: int, limit: int, *, seed: int, console: Console) -> None:
    """Prints the data as a whole, and `limit` training problems from `index` on.

    Raises:
        UserError: settings or data that cannot be used, or no such problem.
    """
    name, revision = settings.model.name_or_path, settings.model.revision
    config = load_config(name, revision=revision)
    check_causal(name, config)
    tokenizer = load_tokenizer(name, revision=revision)
    problems, _, rows = training_data(settings, tokenizer, seed=seed, max_positions=positions(config))
    if index >= len(rows):
        raise UserError(f"--index {index}: {problems.source} has {len(rows)} problems, numbered from 0")
    _show_data(problems, rows, tokenizer, settings, positions(config), console)
    for place in range(index, min(index + limit, len(rows))):
        problem, answer = problems.problems[place], rows[place]["answer"]
        shown = preview(problem, answer, settings.method, tokenizer, chat_template=settings.model.chat_template)
        _show_problem(problem, answer, shown, settings.method, console)


# ------------------------------------------------------------------------------------------------------------- terminal


def _show_data(
    problems: LoadedBenchmark,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    max_positions: int | None,
    console: Console,
) -> None:
    template = settings.model.chat_template
    plain = prompt_lengths(rows, "prompt", tokenizer, chat_template=template)
    conditioned = prompt_lengths(rows, "conditioned_prompt", tokenizer, chat_template=template, prefixed=True)
    revision = "" if problems.revision is None else f", revision {problems.revision}"
    _say(console, f"{len(rows):,} problems to train on, from {problems.source}{revision}")
    for reason, count in problems.dropped.items():
        _say(console, f"left out: {count:,} rows, {reason}")
    for name, lengths in (("x", plain), ("x+", conditioned)):
        _say(console, f"tokens of {name}: {median(lengths):g} in the median, {max(lengths)} at most")
    new = settings.generation.max_new_tokens
    room = "a model without a limit" if max_positions is None else f"the model's {max_positions} positions"
    longest = max(*plain, *conditioned)
    _say(console, f"longest prompt and a response of {new} (generation.max_new_tokens): {longest + new}, in {room}")


def _show_problem(problem: Problem, answer: str, shown: Preview, method: MethodSettings, console: Console) -> None:
    _say(console, f"\n--- {printable(problem.id)}")
    _say(console, f"x, which responses are sampled from: {len(shown.prompt.ids)} tokens")
    _show_prompt(shown.prompt, console)
    if method.credit == "none":
        _say(console, "\nx+ is not read (method.credit = none)")
    else:
        places = shown.conditioned.answer
        where = ", the answer nowhere in it" if not places else f", the answer in {places.start} to {places.stop - 1}"
        _say(console, f"\nx+, which token credit comes from: {len(shown.conditioned.ids)} tokens{where}")
        _show_prompt(shown.conditioned, console)

    _say(console, printable(f"\nreference answer {answer}, scored behind \\boxed{{: {len(shown.scored)} tokens"))
    if answer != problem.target():
        _say(console, printable(f"the control's (method.answers = wrong); the data say {problem.target()}"))
    table = Table("token", "holds")
    for scored in shown.scored:
        table.add_row(repr(scored.text), scored.holds)
    console.print(table, markup=False)
    if any("opening" in scored.holds for scored in shown.scored):
        _say(
            console,
            "opening: the response has the { in one token with what follows it, so that its reasoning ends before that "
            "token, and the { is scored with the answer",
        )
    if method.closing == "prefix_mass":
        _say(console, "the last one stands for all tokens of the vocabulary that begin with it")
    if method.reward == "binary":
        _say(console, "the score is logged only: the reward is a verifier's")

    losses, credits = (sum(getattr(token, what) for token in shown.response) for what in ("loss", "credit"))
    steps = (
        "the reference steps" if problem.steps else "a sentence in place of reference steps, of which there are none,"
    )
    counts = f"{len(shown.response)} tokens, {losses} with loss, {credits} with credit"
    _say(console, f"\nas a response, {steps} and the answer: {counts}")
    table = Table("place", "token", "loss", "credit")
    for place, token in enumerate(shown.response):
        table.add_row(str(place), repr(token.text), *("yes" if held else "" for held in (token.loss, token.credit)))
    console.print(table, markup=False)
    if shown.malformed is not None:
        _say(console, f"malformed ({shown.malformed}): its reward is that of method.malformed = {method.malformed}")
    if method.credit != "none" and method.entropy_gate is not None:
        _say(console, f"of the tokens with credit only the share {method.entropy_gate:g} of highest entropy gets it")


def _show_prompt(prompt: PromptTokens, console: Console) -> None:
    """The text, then the tokens; those of the answer are green."""
    text, tokens = Text(), Text()
    for place, token in enumerate(prompt.texts):
        style = "green" if place in prompt.answer else ""
        text.append(_joined([token]), style)
        tokens.append("|" if place else "")
        tokens.append(token.replace("\n", "\\n"), style)
    console.print(text, soft_wrap=True)
    console.print(tokens, soft_wrap=True)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------------------------------- texts


def _joined(texts: Sequence[str]) -> str:
    """The text of tokens: one that ends inside a character adds nothing to it."""
    return "".join(text for text in texts if text != UNFINISHED)


def _answer_places(texts: Sequence[str], marked: str) -> range:
    """Where a prompt has the tokens that hold characters of what has MARK's place in `marked`; none without MARK."""
    first = marked.find(MARK)
    if first < 0:
        return range(0)
    last = len(_joined(texts)) - (len(marked) - marked.rfind(MARK) - len(MARK))
    places = []
    end = 0
    for place, text in enumerate(texts):
        begin, end = end, end + len(_joined([text]))
        if begin < last and end > first:
            places.append(place)
    return range(places[0], places[-1] + 1) if places else range(0)
