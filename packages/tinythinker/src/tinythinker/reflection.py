r"""Self-reflection: preferences from the student's own chains, and the loss that learns from them.

In iteration t the student of iteration t-1 draws chains for each training question (x, gold option g). A chain is right
if its summary names g. Of two chains that differ in one stage alone, what the right one has there is preferred:

    recall:   (r+, r-)      given x
    analyze:  (a+_i, a-_i)  given x and one recall r, for the gold option i = g and the wrongly predicted option i

The loss of a pair (c preferred to d, both after the prompt p) and of a batch with P pairs is

    delta(y) = log pi(y | p) - log pi_ref(y | p)                           sums over the tokens of y
    L = 1/P sum -log sigmoid(beta (delta(c) - delta(d))) + alpha NLL
    NLL = - 1/T sum over the T real tokens of all c of  log pi(c_k | p, c_<k)

beta 0.5, alpha 0.5. pi_ref is the student of iteration t-1 (`previous`), or that of phase 1 (`acquired`).
Source: TinyThinker, arXiv 2412.08024, section 3.3; DPO: Rafailov et al. 2023, equation 7; NLL: Pang et al. 2024.

Departures from the paper and its authors' code:
1. The NLL is over real target tokens. The authors' code has padding among its targets for T5.
2. The NLL is a mean over the tokens of the whole optimiser batch (in theirs, and in TRL's `sft`, of a micro-batch), so
   that the loss does not depend on accumulation or on the number of ranks.
3. A wrong chain that names no option gives the pair of the gold option alone.
4. `all_options`: a pair for each option, not only for the gold and the predicted one.
5. Right and wrong are paired one to one, in an order that follows from the seed, the iteration and the prompt alone.
   Recalls, and sets of analyses, that differ in white space alone count once.
6. Two pairs of analyses that are each other turned round are both dropped.

Shape legend: P pairs, T tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .questions import LETTERS, Question, plain
from .stages import Prompt, analyze_prompt, recall_prompt

Strategy = Literal["gold_and_predicted", "all_options"]
Source = Literal["student", "teacher"]
C = TypeVar("C")
S = TypeVar("S")

# ---------------------------------------------------------------------------------------------------------------- pairs


@dataclass(frozen=True, slots=True)
class Chain:
    """One pass of the student through the three stages.

    knowledge, analyses: what it generated, analyses one for each option, in order; empty where it has no such stage
    predicted: position of the option that its summary names; None if it names none
    draw: number of the sample
    """

    question: Question
    knowledge: str
    analyses: tuple[str, ...]
    predicted: int | None
    draw: int

    @property
    def right(self) -> bool:
        return self.predicted == self.question.gold


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the two sides of a pair come from.

    chosen_source: the student, or the teacher where its recall tops up
    chosen_draw, rejected_draw: numbers of the samples; None for a teacher's
    predicted: the letter that the rejected chain ends with; None if it ends with none
    """

    iteration: int
    chosen_source: Source
    chosen_draw: int | None
    rejected_draw: int
    predicted: str | None


@dataclass(frozen=True, slots=True)
class Pair:
    """Of two continuations of one prompt, the one to prefer.

    option, knowledge: what the prompt of an analysis is made of; None for a recall, and where there is no recall
    """

    question: Question
    option: int | None
    knowledge: str | None
    chosen: str
    rejected: str
    provenance: Provenance

    @property
    def stage(self) -> Literal["recall", "analyze"]:
        return "recall" if self.option is None else "analyze"

    def prompt(self) -> Prompt:
        if self.option is None:
            return recall_prompt(self.question)
        return analyze_prompt(self.question, self.option, self.knowledge)

    def to_row(self) -> dict[str, Any]:
        """The pair as plain JSON data, with the question by its id."""
        return {
            "stage": self.stage,
            "question_id": self.question.id,
            "option": None if self.option is None else LETTERS[self.option],
            "prompt": self.prompt().text(),
            "chosen": self.chosen,
            "rejected": self.rejected,
            "provenance": asdict(self.provenance),
        }


def recall_pairs(
    chains: Sequence[Chain], teacher_recalls: Mapping[str, Sequence[str]], *, iteration: int, seed: int
) -> list[Pair]:
    """Pairs of recalls, each question's own; a text is in one pair at most.

    chains: drawn with sampled recalls
    teacher_recalls: question id -> recalls to prefer as well, where a question has more wrong recalls than right ones
    """
    pairs: list[Pair] = []
    for own in _grouped(chains, lambda chain: chain.question.id):
        question = own[0].question
        right = _distinct((chain.knowledge, chain) for chain in own if chain.right)
        wrong = _distinct((chain.knowledge, chain) for chain in own if not chain.right)
        chosen: list[tuple[str, Chain | None]] = [side for text, side in right.items() if text not in wrong]
        rejected = [side for text, side in wrong.items() if text not in right]
        spare = _distinct((text, None) for text in teacher_recalls.get(question.id, ()))
        missing = max(0, len(rejected) - len(chosen))
        chosen += [side for text, side in spare.items() if text not in right and text not in wrong][:missing]
        rng = _order(seed, iteration, question.id)
        for (better, source), (worse, chain) in zip(_shuffled(chosen, rng), _shuffled(rejected, rng), strict=False):
            pairs.append(Pair(question, None, None, better, worse, _provenance(iteration, source, chain)))
    return pairs


def analyze_pairs(chains: Sequence[Chain], strategy: Strategy, *, iteration: int, seed: int) -> list[Pair]:
    """Pairs of analyses: a right and a wrong chain of one question and one recall, compared option by option.

    chains: drawn with sampled analyses after a fixed recall; a question may have several recalls
    """
    pairs: list[Pair] = []
    for own in _grouped(chains, lambda chain: (chain.question.id, plain(chain.knowledge))):
        question, knowledge = own[0].question, own[0].knowledge
        rng = _order(seed, iteration, question.id, plain(knowledge))
        right = _distinct(("\n".join(map(plain, chain.analyses)), chain) for chain in own if chain.right)
        wrong = _distinct(("\n".join(map(plain, chain.analyses)), chain) for chain in own if not chain.right)
        found: dict[tuple[int, str, str], Pair] = {}
        for (_, better), (_, worse) in zip(
            _shuffled(right.values(), rng), _shuffled(wrong.values(), rng), strict=False
        ):
            for option in range(len(question.options)):
                if strategy == "gold_and_predicted" and option not in (question.gold, worse.predicted):
                    continue
                chosen, rejected = better.analyses[option].strip(), worse.analyses[option].strip()
                key = (option, plain(chosen), plain(rejected))
                if chosen and rejected and key[1] != key[2]:
                    provenance = _provenance(iteration, better, worse)
                    found.setdefault(key, Pair(question, option, knowledge or None, chosen, rejected, provenance))
        pairs += [pair for (option, one, other), pair in found.items() if (option, other, one) not in found]
    return pairs


def _grouped(chains: Iterable[Chain], key: Callable[[Chain], Hashable]) -> list[list[Chain]]:
    groups: dict[Hashable, list[Chain]] = {}
    for chain in chains:
        groups.setdefault(key(chain), []).append(chain)
    return list(groups.values())


def _distinct(sides: Iterable[tuple[str, C]]) -> dict[str, tuple[str, C]]:
    """The first of the texts that differ in white space alone, none that is empty: text without it -> (text, chain)."""
    first: dict[str, tuple[str, C]] = {}
    for text, chain in sides:
        if plain(text):
            first.setdefault(plain(text), (text.strip(), chain))
    return first


def _order(seed: int, iteration: int, *prompt: str) -> random.Random:
    """A string seed gives the same numbers on every machine, whatever other prompts there are."""
    return random.Random("/".join([str(seed), str(iteration), *prompt]))


def _shuffled(items: Iterable[S], rng: random.Random) -> list[S]:
    shuffled = list(items)
    rng.shuffle(shuffled)
    return shuffled


def _provenance(iteration: int, better: Chain | None, worse: Chain) -> Provenance:
    return Provenance(
        iteration=iteration,
        chosen_source="teacher" if better is None else "student",
        chosen_draw=None if better is None else better.draw,
        rejected_draw=worse.draw,
        predicted=None if worse.predicted is None else LETTERS[worse.predicted],
    )


# ----------------------------------------------------------------------------------------------------------------- loss


class PreferenceSums(NamedTuple):
    """The two terms of the loss, each summed over its own unit, and what there is to watch.

    preference: sum over the pairs of -log sigmoid(...), in nats
    nll: sum over the chosen tokens, in nats
    margins_P: beta (delta(c) - delta(d)), without gradient; above 0 the student agrees with the pair
    """

    preference: Tensor
    nll: Tensor
    margins_P: Tensor


def preference_sums(
    chosen_logprobs_PT: Tensor,
    chosen_mask_PT: Tensor,
    rejected_logprobs_PT: Tensor,
    rejected_mask_PT: Tensor,
    reference_chosen_P: Tensor,
    reference_rejected_P: Tensor,
    *,
    beta: float,
) -> PreferenceSums:
    """The sums behind the loss of these pairs; `preference_loss` divides them.

    Args:
        chosen_logprobs_PT, rejected_logprobs_PT: log pi of each token of the continuations, in nats. The two may have
            different T.
        chosen_mask_PT, rejected_mask_PT: True on the real tokens of the continuations, the end-of-sequence token among
            them, and False on padding and on the prompt.
        reference_chosen_P, reference_rejected_P: log pi_ref of the whole continuations.
    """
    # `where`, not a product: what stands at padding may be -inf, and 0 * -inf is not a number.
    chosen_P = torch.where(chosen_mask_PT, chosen_logprobs_PT, 0.0).sum(-1)
    rejected_P = torch.where(rejected_mask_PT, rejected_logprobs_PT, 0.0).sum(-1)
    margins_P = beta * ((chosen_P - reference_chosen_P) - (rejected_P - reference_rejected_P))
    return PreferenceSums(-logsigmoid(margins_P).sum(), -chosen_P.sum(), margins_P.detach())


def preference_loss(sums: PreferenceSums, *, alpha: float, pairs: int, chosen_tokens: int) -> Tensor:
    """The loss, or the share of it that `sums` have in an optimiser batch.

    pairs, chosen_tokens: of the whole optimiser batch, over all ranks and accumulation passes
    """
    return sums.preference / pairs + alpha * sums.nll / chosen_tokens
