"""What one training step would make of a group of responses to one problem, every stage of it kept.

The numbers are those of `GeneralThinkerTrainer` at its first step, with this group as the whole rollout: where a rule
looks beyond the group (`projection` and the entropy gate at all responses of a rollout) or at the step (`rlsd`), a run
has other numbers in those places. `credit_control: shuffle` draws a permutation of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import torch
from torch import Tensor

from .. import credit as credits
from .. import metrics
from .._common import (
    AnswerScore,
    AnswerScorer,
    DataError,
    Generation,
    Generator,
    Problem,
    ScoringItem,
    UserError,
    chat,
    encode_answer,
    grade,
    split_response,
)
from ..config import MethodSettings
from ..data import training_row
from ..likelihoods import in_rows, response_logprobs, wanted_continuations
from ..rewards import advantages_of, answer_values, probability_gain, reward_responses
from ..rollout import Rollout, TokenIds, loss_mask, reasoning_mask
from .tokens import token_texts

# B responses of the group, T tokens of a response (padded on the right)


@dataclass(frozen=True)
class TokenCredit:
    """One token.

    log_ratio: s_t in nats, before `credit_control` changes it, of reasoning tokens; NaN elsewhere
    evidence: d_t as the rule takes it from s_t: standardised per response, for `projection` centred and divided by
        the deviation of all responses, for `rlsd` s_t itself; NaN where nothing is modulated
    bounded: d_t behind the token clip, equal to `evidence` under a rule without one
    weight: w_t
    advantage: A_t, what the loss multiplies with; 0 where there is no loss
    clipped: whether a bound of the rule (token clip, |w_t| <= 1 of the projection, RLSD's clip) changed the token
    covered: whether the loss covers it
    """

    text: str
    log_ratio: float
    evidence: float
    bounded: float
    weight: float
    advantage: float
    clipped: bool
    covered: bool

    @property
    def credited(self) -> bool:
        """Whether the rule modulates its advantage."""
        return not isnan(self.weight)


@dataclass(frozen=True)
class ResponseCredit:
    """One response.

    own_answer: what its last box holds
    malformed: what is wrong with it, or None
    reward: None under `malformed: exclude`
    answer_logprob: log pi(a* | x, y_R) in nats, whatever the reward is made of; None if malformed
    advantage: A, within the group
    reasoning_length: how many of its tokens are y_R
    """

    tokens: list[TokenCredit]
    own_answer: str
    malformed: str | None
    reward: float | None
    answer_logprob: float | None
    advantage: float
    reasoning_length: int

    @property
    def credited(self) -> list[TokenCredit]:
        return [token for token in self.tokens if token.credited]

    @property
    def flipped(self) -> int:
        """How many tokens have an advantage of another sign than the response."""
        return sum(token.advantage * self.advantage < 0 for token in self.credited)


@dataclass(frozen=True)
class GroupCredit:
    """The group; `logged` is what a training step would log of it."""

    responses: list[ResponseCredit]
    logged: dict[str, float]


def sample_group(
    policy: Any,
    tokenizer: Any,
    problem: Problem,
    method: MethodSettings,
    *,
    samples: int,
    temperature: float,
    max_new_tokens: int,
    chat_template: str = "auto",
    seed: int = 0,
) -> list[Generation]:
    """The policy's responses to the problem.

    Raises:
        UserError: a model of another kind, no room for prompt, response and answer, no response with a token.
    """
    if policy.config.is_encoder_decoder:
        raise UserError("GeneralThinker trains causal language models; this one has an encoder and a decoder")
    prompt, conditioned = _prompts(tokenizer, problem, method, chat_template)
    try:
        answer = list(encode_answer(tokenizer, problem.target()).ids)
    except ValueError as error:
        raise DataError(f"{problem.id}: {error}") from error
    generator = Generator(policy, tokenizer, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    generator.check_lengths([[*prompt, *answer], conditioned])
    [responses] = generator.sample([prompt], samples)
    if not any(response.token_ids for response in responses):
        raise UserError("the model ends every response at once: there is nothing to show")
    return responses


def credit_group(
    policy: Any,
    reference: Any,
    tokenizer: Any,
    problem: Problem,
    method: MethodSettings,
    responses: Sequence[Generation],
    *,
    temperature: float = 1.0,
    chat_template: str = "auto",
    seed: int = 0,
) -> GroupCredit:
    """Rewards, advantages and token credit of the responses.

    Args:
        reference: pi_ref, what the policy was before training.
        temperature: that the responses were sampled at, by which a training step divides the logits; above 0.
        seed: of `credit_control: shuffle`.
    """
    prompt, conditioned = _prompts(tokenizer, problem, method, chat_template)
    rollout = Rollout(
        prompts=[prompt] * len(responses),
        responses=[list(response.token_ids) for response in responses],
        splits=[split_response(tokenizer, response.token_ids, truncated=response.truncated) for response in responses],
        truncated=[response.truncated for response in responses],
    )
    scores = _answer_scores(policy, tokenizer, problem, method, rollout)
    rewards_B, advantages_B, group_std = _advantages(policy, tokenizer, problem, method, rollout, scores)

    reasoning_BT = reasoning_mask(rollout)
    modulated = method.credit != "none"

    def logprobs(model: Any, behind: Rollout) -> Tensor:
        return response_logprobs(
            model, behind, reasoning_BT, temperature=temperature, max_tokens_per_batch=method.max_tokens_per_batch
        ).cpu()

    conditioned_BT = logprobs(policy, rollout.behind([conditioned] * len(responses)))
    base_BT = logprobs(policy if method.base_policy == "current" else reference, rollout)
    credited_BT = reasoning_BT & modulated
    if modulated and method.entropy_gate is not None and reasoning_BT.any():
        asked = wanted_continuations(rollout, reasoning_BT, temperature)
        _, _, entropies = _scorer(policy, tokenizer, method).score_beside([], asked, with_entropy=True)
        entropies_BT = in_rows(entropies, reasoning_BT).cpu()
        threshold = torch.quantile(entropies_BT[reasoning_BT].double(), 1 - method.entropy_gate)
        credited_BT = credits.high_entropy_tokens(entropies_BT, reasoning_BT, threshold)
    ratio_BT = conditioned_BT - base_BT
    s_BT = _controlled(method, ratio_BT, credited_BT, seed)
    evidence_BT, bounded_BT, credit = _credit(method, s_BT, credited_BT, advantages_B)

    covered_BT = loss_mask(rollout, reward=method.reward, malformed=method.malformed)
    advantages_BT = torch.where(credited_BT, credit.advantages_BT, advantages_B.unsqueeze(1) * covered_BT)
    logged = metrics.rollout_statistics(
        rewards_B,
        torch.tensor([nan if score is None else score.sum for score in scores]),
        torch.tensor(rollout.well_formed),
        torch.tensor(rollout.boxed),
        torch.tensor(rollout.truncated),
        advantages_B,
        group_std,
        min_group_std=method.min_group_std,
    )
    flipped_BT = advantages_BT * advantages_B.unsqueeze(1) < 0
    logged |= metrics.credit_statistics(
        *(each_BT[credited_BT] for each_BT in (s_BT, credit.weights_BT, credit.clipped_BT, flipped_BT))
    )

    shown = [
        torch.where(reasoning_BT, ratio_BT, nan),
        torch.where(credited_BT, evidence_BT, nan),
        torch.where(credited_BT, bounded_BT, nan),
        torch.where(credited_BT, credit.weights_BT, nan),
        advantages_BT,
        credit.clipped_BT & credited_BT,
        covered_BT,
    ]
    # Padding ends the rows of the tensors, and `zip` with the texts leaves it out.
    return GroupCredit(
        [
            ResponseCredit(
                tokens=[
                    TokenCredit(text, *values)
                    for text, *values in zip(
                        token_texts(tokenizer, ids), *(each_BT[b].tolist() for each_BT in shown), strict=False
                    )
                ],
                own_answer=rollout.splits[b].answer_text,
                malformed=rollout.splits[b].reason,
                reward=None if rewards_B[b].isnan() else rewards_B[b].item(),
                answer_logprob=None if (score := scores[b]) is None else score.sum,
                advantage=advantages_B[b].item(),
                reasoning_length=rollout.splits[b].reasoning_length,
            )
            for b, ids in enumerate(rollout.responses)
        ],
        logged,
    )


def _prompts(tokenizer: Any, problem: Problem, method: MethodSettings, chat_template: str) -> tuple[TokenIds, TokenIds]:
    """x and x+ as token ids."""
    row = training_row(problem, problem.target(), method)
    return (
        chat.render_prompt(tokenizer, row["prompt"], chat_template=chat_template),
        chat.render_prompt(
            tokenizer, row["conditioned_prompt"], chat_template=chat_template, assistant_prefix=row["assistant_prefix"]
        ),
    )


def _answer_scores(
    policy: Any, tokenizer: Any, problem: Problem, method: MethodSettings, rollout: Rollout
) -> list[AnswerScore | None]:
    """Scores of the reference answer behind the reasoning of every well-formed response."""
    items = [
        ScoringItem(rollout.prompts[b], rollout.reasoning_ids(b), problem.target(), "}", split.opening)
        for b, split in enumerate(rollout.splits)
        if split.well_formed
    ]
    scores = iter(_scorer(policy, tokenizer, method).score(items))
    return [next(scores) if split.well_formed else None for split in rollout.splits]


def _scorer(policy: Any, tokenizer: Any, method: MethodSettings) -> AnswerScorer:
    return AnswerScorer(policy, tokenizer, max_tokens_per_batch=method.max_tokens_per_batch, closing=method.closing)


def _advantages(
    policy: Any,
    tokenizer: Any,
    problem: Problem,
    method: MethodSettings,
    rollout: Rollout,
    scores: Sequence[AnswerScore | None],
) -> tuple[Tensor, Tensor, Tensor]:
    """(rewards_B, advantages_B, the group's standard deviation)."""
    size = len(rollout.responses)
    match method.reward:
        case "binary":  # a verifier judges malformed responses too
            texts = tokenizer.batch_decode(rollout.responses, skip_special_tokens=True)
            rewards_B = torch.tensor([float(grade(problem, text).correct) for text in texts])
            return rewards_B, *advantages_of(rewards_B, size, reward="binary", min_group_std=method.min_group_std)
        case "mean_probability":
            item = ScoringItem(rollout.prompts[0], r"\boxed{", problem.target(), "}")
            [without] = _scorer(policy, tokenizer, method).score([item])
            scores_B = probability_gain(answer_values(method.reward, scores), torch.tensor(without.mean_probability))
        case "likelihood" | "probability":
            scores_B = answer_values(method.reward, scores)
    rewards_B = reward_responses(
        scores_B,
        torch.tensor(rollout.well_formed),
        size,
        malformed=method.malformed,
        floor=method.floor,
        margin=method.malformed_margin,
    )
    return rewards_B, *advantages_of(rewards_B, size, reward=method.reward, min_group_std=method.min_group_std)


def _controlled(method: MethodSettings, s_BT: Tensor, mask_BT: Tensor, seed: int) -> Tensor:
    match method.credit_control:
        case "none":
            return s_BT
        case "shuffle":
            return credits.shuffle(s_BT, mask_BT, torch.Generator().manual_seed(seed))
        case "reverse":
            return credits.reverse(s_BT)


def _credit(
    method: MethodSettings, s_BT: Tensor, mask_BT: Tensor, advantages_B: Tensor
) -> tuple[Tensor, Tensor, credits.TokenCredit]:
    """(d_t, d_t behind the token clip, what the rule makes of it)."""
    batch_std = credits.deviation(credits.squared_deviations(s_BT, mask_BT)).to(s_BT.dtype)
    clip = method.token_clip if method.credit in ("clipped", "controlled") else None
    match method.credit:
        case "none":
            d_BT = torch.zeros_like(s_BT)
        case "projection":
            d_BT = credits.centre(s_BT, mask_BT) / (batch_std + credits.EPSILON)
        case "rlsd":
            d_BT = s_BT
        case _:
            d_BT = credits.standardise(s_BT, mask_BT)
    bounded_BT = d_BT if clip is None else credits.clip_and_centre(d_BT, mask_BT, clip)[0]
    credit = credits.by_rule(
        method.credit,
        s_BT,
        mask_BT,
        advantages_B,
        strength=method.credit_strength,
        token_clip=method.token_clip,
        batch_std=batch_std,
        mix=credits.rlsd_mix(0, start=method.rlsd_mix, steps=method.rlsd_steps),
        bound=method.rlsd_clip,
    )
    return d_BT, bounded_BT, credit
