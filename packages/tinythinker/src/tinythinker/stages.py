r"""The three stages of TinyThinker: recall -> analyze -> summarize.

For a question q with options o_1 .. o_n the student models

    r    ~ p(r | q, o)                  recall      general knowledge
    a_i  ~ p(a_i | q, o, r, i)          analyze     why option i is right or wrong, for each i = 1 .. n
    y    ~ p(y | q, o, r, a_1 .. a_n)   summarize   "So the answer is option X."

and is trained by cross-entropy on the targets alone:

    L = - 1/T  sum over the T target tokens t of the batch  log p(t | what stands before it)

Source: TinyThinker, arXiv 2412.08024, sections 3.1 and 3.2. A chain, in full:

    Which creature lives in trees and eats moss?
    (A) opra (B) kesh
    Recall: An opra lives in trees and eats moss.
    Analyze: For option A, an opra lives in trees and eats moss. For option B, a kesh eats seeds.
    Summarize: So the answer is option A.

Recall's prompt ends with `Recall:`, analyze's with `For option X,` and summarize's with `Summarize:`.

Departures from the paper and its authors' code:
1. Any number of options from 2 to 26, which may differ from question to question.
2. Causal students, beside T5. The prompt is the same text; with a chat template the question and its options are the
   user's turn, and everything from `Recall:` on is the assistant's. A target is then encoded after one space.
3. An answer must be one of the question's own options, and must end there: "option F" of five options, and
   "option All", are no answer. Without an answer the student abstains.
4. `knowledge` and `analyses` may be left out of a prompt, which gives the ablations of single stages.

A token sequence is a list of ids: `prompt_ids` goes to the encoder of T5, or in front of the target otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from ._common import boundary, chat
from .questions import LETTERS, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Stage = Literal["recall", "analyze", "summarize"]
STAGES: tuple[Stage, ...] = get_args(Stage)

ANSWER = re.compile(r"the answer is option ([A-Z])\b")


class Prompt(NamedTuple):
    """What the student continues.

    question: the question and its options
    reasoning: from the first tag to the last; the stage's own tag is its end
    """

    question: str
    reasoning: str

    def text(self) -> str:
        return f"{self.question}\n{self.reasoning}"


# ------------------------------------------------------------------------------------------------------------- the text


def recall_prompt(question: Question) -> Prompt:
    return Prompt(question_text(question), "Recall:")


def analyze_prompt(question: Question, option: int, knowledge: str | None) -> Prompt:
    """option: position of the option to judge."""
    return Prompt(question_text(question), "\n".join([*_recalled(knowledge), f"Analyze: {_option(option)}"]))


def summarize_prompt(question: Question, knowledge: str | None, analyses: Sequence[str] | None) -> Prompt:
    """analyses: one for each option, in order."""
    lines = _recalled(knowledge)
    if analyses is not None:
        assert len(analyses) == len(question.options), question.id
        judged = [f"{_option(position)} {analysis}" for position, analysis in enumerate(analyses)]
        lines.append(f"Analyze: {' '.join(judged)}")
    return Prompt(question_text(question), "\n".join([*lines, "Summarize:"]))


def summarize_target(option: int) -> str:
    return f"So the answer is option {LETTERS[option]}."


def chain_target(question: Question, knowledge: str, analyses: Sequence[str], option: int) -> str:
    """All that follows recall's prompt, in one target: what the chain-of-thought baseline is trained on."""
    rest = summarize_prompt(question, knowledge, analyses).reasoning.removeprefix("Recall: ")
    return f"{rest} {summarize_target(option)}"


def chain_tags(options: int) -> str:
    """What stands between the texts of the stages in `chain_target`, for a question of so many options."""
    judged = " ".join(_option(position) for position in range(options))
    return f"\nAnalyze: {judged}\nSummarize:"


def answered_option(text: str, question: Question) -> int | None:
    """The position of the option that a summary names first; None if it names none of the question's."""
    found = ANSWER.search(text)
    return question.letters.index(found[1]) if found and found[1] in question.letters else None


def question_text(question: Question) -> str:
    options = [f"({letter}) {option}" for letter, option in zip(question.letters, question.options, strict=True)]
    return f"{question.text}\n{' '.join(options)}"


def _recalled(knowledge: str | None) -> list[str]:
    return [] if knowledge is None else [f"Recall: {knowledge}"]


def _option(position: int) -> str:
    return f"For option {LETTERS[position]},"


# ----------------------------------------------------------------------------------------------------------- the tokens


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, *, encoder_decoder: bool, chat_template: str = "none"
) -> list[int]:
    """Token ids of a prompt, with the special tokens it needs, in whole: a prompt ends with its stage's tag.

    chat_template: "none", "auto" (the tokenizer's own) or a file; an encoder-decoder student has none.
    """
    if encoder_decoder:
        ids: list[int] = tokenizer(prompt.text(), verbose=False)["input_ids"]
        return ids
    return chat.render_prompt(
        tokenizer, prompt.question, chat_template=chat_template, assistant_prefix=prompt.reasoning
    )


def target_ids(tokenizer: PreTrainedTokenizerBase, target: str, *, encoder_decoder: bool) -> list[int]:
    """Token ids of a target with the end-of-sequence token, which the student must learn to give."""
    assert target.strip(), "an empty target teaches nothing"
    if encoder_decoder:
        ids = boundary.encode_output_start(tokenizer, target)
    else:
        ids = boundary.encode_mid_text(tokenizer, f" {target}")
    return [*ids, tokenizer.eos_token_id]
