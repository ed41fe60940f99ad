"""GeneralThinkerTrainer: TRL's GRPOTrainer with the answer's likelihood as reward and the answer as a source of credit.

TRL keeps what it does well: sampling in groups, the clipped surrogate and its KL term, optimiser, logging. Replaced are
the scoring of a rollout (`_generate_and_score_completions`) and the log-probabilities, which are exact, get position
ids and run the head on response tokens only (`_get_per_token_logps_and_entropies`). Every private method of TRL that
this package overrides or calls stands in this file; `tests/test_trl_contract.py` names each with its signature.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from ._common import AnswerScorer, BoxSplit, ScoringItem, SettingsError, chat, split_response, token_logprobs
from .config import MethodSettings
from .credit import controlled
from .rewards import group_advantages, reward_responses

# B responses of a rollout (the G of one prompt stand together), P prompt tokens (padded on the left), T response tokens
# (padded on the right)

TokenIds = Sequence[int]


@dataclass(frozen=True)
class Rollout:
    """Sampled responses as token ids, and what the method needs of each."""

    prompts: Sequence[TokenIds]
    responses: Sequence[TokenIds]
    splits: list[BoxSplit]
    truncated: list[bool]

    @property
    def well_formed(self) -> list[bool]:
        return [split.well_formed for split in self.splits]


def check_one_process(args: GRPOConfig) -> None:
    """SettingsError where training would be spread: the loss does not go through a data-parallel wrapper."""
    if args.world_size > 1 or args.n_gpu > 1:
        raise SettingsError(
            f"{max(args.world_size, args.n_gpu)} processes or GPUs: training runs on one in this version; start one "
            "process and show it one GPU with CUDA_VISIBLE_DEVICES=0"
        )


def check_combination(args: GRPOConfig, method: MethodSettings, problems: int) -> None:
    """SettingsError where settings that are each possible are not so together, or for this number of problems."""
    if args.use_vllm:
        raise SettingsError("training.use_vllm = true: rollouts come from transformers in this version")
    check_one_process(args)
    if method.credit != "none" and args.beta == 0.0:
        raise SettingsError(
            f"method.credit = {method.credit!r} compares with the reference policy, which training.beta = 0 leaves "
            "out: set training.beta above 0"
        )
    prompts = args.generation_batch_size // args.num_generations
    if problems < prompts:
        raise SettingsError(
            f"a rollout takes {prompts} problems and the data has {problems}: lower "
            "training.per_device_train_batch_size, gradient_accumulation_steps or steps_per_generation"
        )


class GeneralThinkerTrainer(GRPOTrainer):
    """Trains a causal language model by the likelihood of reference answers.

    Args:
        model: the policy, plain or with a fresh PEFT adapter. The reference is what it was loaded from: TRL loads that
            again, at the revision in `args.model_init_kwargs`, or switches the adapter off.
        args: TRL's configuration; `beta`, `num_generations`, `num_iterations`, ... mean what they mean in TRL.
        method: reward, credit and prompts.
        train_dataset: columns `prompt` (what the user says), `conditioned_prompt` (the same with the answer shown),
            `assistant_prefix` (how the answer-conditioned response begins), `answer`: see `data.training_rows`.
        processing_class: the tokenizer.
        chat_template: auto | none | path, see `chat.render_prompt`.

    Raises:
        SettingsError: a combination that this trainer does not support.
    """

    _tag_names = ["generalthinker", "trl", "grpo"]  # noqa: RUF012 (TRL's own attribute)

    def __init__(
        self,
        model: PreTrainedModel,
        args: GRPOConfig,
        method: MethodSettings,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        *,
        chat_template: str = "auto",
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        check_combination(args, method, len(train_dataset))
        self.method = method
        self.chat_template_setting = chat_template
        self.last_credit: list[tuple[TokenIds, list[float]]] = []  # responses of the newest rollout and their weights
        super().__init__(
            model=model,
            reward_funcs=_answer_likelihood,
            args=args,
            train_dataset=train_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
        )
        if self.aux_loss_enabled:
            raise SettingsError(
                "mixture-of-experts models: their load-balancing loss is not computed here; leave it out with "
                "training.router_aux_loss_coef=0"
            )
        self.scorer = AnswerScorer(
            self.model,
            processing_class,
            max_tokens_per_batch=method.max_tokens_per_batch,
            closing=method.closing,
        )

    # ------------------------------------------------------------------------------------------------ rollout to batch

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """One rollout: sample, reward, advantages, token credit. Returns the batch that TRL's loss works on."""
        group_size = self.num_generations
        rollout = self._sample(inputs)
        answers = [row["answer"] for row in inputs]

        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            with self.accelerator.autocast():
                answer_logprobs_B = self._answer_logprobs(rollout, answers)
            old_logprobs_BT = None if self._on_policy() else self._response_logprobs(self.model, rollout)
            reference_BT = self._reference_logprobs(rollout) if self.beta != 0.0 else None
            conditioned_BT = None
            if self.method.credit != "none":
                conditioned_BT = self._response_logprobs(self.model, self._conditioned(rollout, inputs))

        well_formed_B = torch.tensor(rollout.well_formed, device=answer_logprobs_B.device)
        rewards_B = reward_responses(
            answer_logprobs_B,
            well_formed_B,
            group_size,
            malformed=self.method.malformed,
            floor=self.method.malformed_reward,
            margin=self.method.malformed_margin,
        )
        advantages_B, group_std = group_advantages(rewards_B, group_size, min_group_std=self.method.min_group_std)

        batch = self._batch(rollout)
        reasoning_BT = self._reasoning_mask(rollout) & well_formed_B.unsqueeze(1)
        batch["tool_mask"] = self._loss_mask(rollout, reasoning_BT)  # TRL: tokens of the loss; attention keeps them all
        batch["advantages"] = advantages_B.unsqueeze(1) * batch["tool_mask"]
        if conditioned_BT is not None and reference_BT is not None:
            s_BT = conditioned_BT - reference_BT
            credit = controlled(
                s_BT,
                reasoning_BT,
                advantages_B,
                strength=self.method.credit_strength,
                token_clip=self.method.token_clip,
            )
            batch["advantages"] = torch.where(reasoning_BT, credit.advantages_BT, batch["advantages"])
            self._log_credit(s_BT, credit.weights_BT, credit.clipped_BT, reasoning_BT, advantages_B, batch)
            self.last_credit = list(zip(rollout.responses, credit.weights_BT.tolist(), strict=True))
        if old_logprobs_BT is not None:
            batch["old_per_token_logps"] = old_logprobs_BT
        if reference_BT is not None:
            batch["ref_per_token_logps"] = reference_BT
        batch["num_items_in_batch"] = (batch["completion_mask"] * batch["tool_mask"]).sum()
        self._log_rollout(inputs, rollout, answer_logprobs_B, rewards_B, advantages_B, group_std)
        return batch

    def _send_telemetry(self) -> None:
        """Nothing is sent anywhere; TRL would at construction."""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Prompts as ids: the chat template without a default system block, or plain text."""
        ids = [
            chat.render_prompt(self.processing_class, text, chat_template=self.chat_template_setting)
            for text in prompts
        ]
        return ids, None, {}

    def _sample(self, inputs: list[dict[str, Any]]) -> Rollout:
        prompts, responses, *_ = self._generate([row["prompt"] for row in inputs])
        truncated = [ids[-1] not in self.eos_token_ids for ids in responses]
        splits = [
            split_response(self.processing_class, ids, truncated=cut)
            for ids, cut in zip(responses, truncated, strict=True)
        ]
        return Rollout(prompts, responses, splits, truncated)

    def _conditioned(self, rollout: Rollout, inputs: list[dict[str, Any]]) -> Rollout:
        """The same responses behind the prompts that show the answer."""
        prompts = [
            chat.render_prompt(
                self.processing_class,
                row["conditioned_prompt"],
                chat_template=self.chat_template_setting,
                assistant_prefix=row["assistant_prefix"],
            )
            for row in inputs
        ]
        return Rollout(prompts, rollout.responses, rollout.splits, rollout.truncated)

    def _answer_logprobs(self, rollout: Rollout, answers: list[str]) -> Tensor:
        """log pi(a* | x, y_R) of every response (B,), 0 where the response is malformed."""
        scored = [index for index, ok in enumerate(rollout.well_formed) if ok]
        scores = self.scorer.score(
            [
                ScoringItem(
                    prompt=rollout.prompts[index],
                    reasoning=rollout.responses[index][: rollout.splits[index].reasoning_length],
                    answer=answers[index],
                    suffix="}",
                    opening=rollout.splits[index].opening,
                )
                for index in scored
            ]
        )
        logprobs_B = torch.zeros(len(answers), device=self.accelerator.device)
        for index, score in zip(scored, scores, strict=True):
            logprobs_B[index] = score.sum
        return logprobs_B

    # ------------------------------------------------------------------------------------------------ log-probabilities

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **multimodal: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """Log-probabilities and entropies (B, logits_to_keep) of the last tokens, as TRL's loss asks for them."""
        assert not compute_aux_loss and all(value is None for value in multimodal.values()), (
            "text models without experts"
        )
        with self.accelerator.autocast():
            logprobs, entropies = token_logprobs(
                self.accelerator.unwrap_model(model),
                input_ids,
                attention_mask,
                keep=logits_to_keep,
                temperature=self.temperature,
                with_entropy=True,
                entropy_grad=self._entropy_bonus_enabled,
            )
        return logprobs, entropies if compute_entropy else None, None

    def _response_logprobs(self, model: Any, rollout: Rollout) -> Tensor:
        """Log-probabilities (B, T) of the responses, in batches of similar length under the token budget."""
        width = max(map(len, rollout.responses))
        logprobs_BT = torch.zeros(len(rollout.responses), width, device=self.accelerator.device)
        lengths = [len(p) + len(r) for p, r in zip(rollout.prompts, rollout.responses, strict=True)]
        for rows in _token_batches(lengths, self.method.max_tokens_per_batch):
            prompt_ids, prompt_mask = self._pad([rollout.prompts[row] for row in rows], "left")
            response_ids, response_mask = self._pad([rollout.responses[row] for row in rows], "right")
            with self.accelerator.autocast():
                kept = token_logprobs(
                    self.accelerator.unwrap_model(model),
                    torch.cat([prompt_ids, response_ids], dim=1),
                    torch.cat([prompt_mask, response_mask], dim=1),
                    keep=response_ids.shape[1],
                    temperature=self.temperature,
                )
            logprobs_BT[rows, : kept.shape[1]] = kept.to(logprobs_BT.dtype)
        return logprobs_BT

    def _reference_logprobs(self, rollout: Rollout) -> Tensor:
        if self.ref_model is not None:
            return self._response_logprobs(self.ref_model, rollout)
        with _without_adapter(self.accelerator.unwrap_model(self.model)):
            return self._response_logprobs(self.model, rollout)

    def _on_policy(self) -> bool:
        """Whether the update sees the policy that sampled, so that its own log-probabilities are the old ones."""
        return self.args.gradient_accumulation_steps % (self.args.steps_per_generation * self.num_iterations) == 0

    # ------------------------------------------------------------------------------------------------ masks and padding

    def _batch(self, rollout: Rollout) -> dict[str, Tensor]:
        prompt_ids, prompt_mask = self._pad(rollout.prompts, "left")
        completion_ids, completion_mask = self._pad(rollout.responses, "right")
        return {
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
            "completion_ids": completion_ids,
            "completion_mask": completion_mask,
        }

    def _pad(self, rows: Sequence[TokenIds], side: str) -> tuple[Tensor, Tensor]:
        """(ids, mask) of shape (B, longest row)."""
        ids = [torch.tensor(row, dtype=torch.long) for row in rows]
        padded = pad_sequence(ids, batch_first=True, padding_value=self._tokenizer.pad_token_id, padding_side=side)
        mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True, padding_side=side)
        return padded.to(self.accelerator.device), mask.to(self.accelerator.device)

    def _reasoning_mask(self, rollout: Rollout) -> Tensor:
        """bool (B, T): the tokens of y_R."""
        width = max(map(len, rollout.responses))
        lengths_B = torch.tensor([split.reasoning_length for split in rollout.splits])
        return (torch.arange(width) < lengths_B.unsqueeze(1)).to(self.accelerator.device)

    def _loss_mask(self, rollout: Rollout, reasoning_BT: Tensor) -> Tensor:
        """1 on the tokens that the loss covers (B, T).

        Well-formed responses: y_R, so that the model's own answer gets no loss. Truncated ones: nothing. Otherwise
        malformed ones: every token, since what went wrong lies behind y_R. Under `exclude` malformed ones: nothing.
        """
        whole_B = torch.tensor(
            [
                not ok and not cut and self.method.malformed != "exclude"
                for ok, cut in zip(rollout.well_formed, rollout.truncated, strict=True)
            ],
            device=reasoning_BT.device,
        )
        lengths_B = torch.tensor([len(ids) for ids in rollout.responses], device=reasoning_BT.device)
        real_BT = torch.arange(reasoning_BT.shape[1], device=reasoning_BT.device) < lengths_B.unsqueeze(1)
        return (reasoning_BT | (whole_B.unsqueeze(1) & real_BT)).long()

    # ------------------------------------------------------------------------------------------------ logging

    def _log_rollout(
        self,
        inputs: list[dict[str, Any]],
        rollout: Rollout,
        answer_logprobs_B: Tensor,
        rewards_B: Tensor,
        advantages_B: Tensor,
        group_std: Tensor,
    ) -> None:
        metrics = self._metrics["train"]
        counted = rewards_B[~rewards_B.isnan()]
        well_formed_B = torch.tensor(rollout.well_formed, device=answer_logprobs_B.device)
        metrics["reward"].append(counted.mean().item())
        metrics["reward_std"].append(counted.std().item())
        metrics["answer_logprob"].append(answer_logprobs_B[well_formed_B].mean().item())
        metrics["well_formed_rate"].append(well_formed_B.float().mean().item())
        boxed = [split.answer_text != "" or split.reason == "empty_answer" for split in rollout.splits]
        metrics["boxed_rate"].append(sum(boxed) / len(boxed))
        metrics["truncation_rate"].append(sum(rollout.truncated) / len(rollout.truncated))
        metrics["groups_under_min_std"].append((group_std < self.method.min_group_std).float().mean().item())
        metrics["groups_without_signal"].append(
            (advantages_B.view(-1, self.num_generations) == 0).all(1).float().mean().item()
        )
        # What TRL's `log_completions` prints and stores.
        self._logs["prompt"].extend(row["prompt"] for row in inputs)
        self._logs["completion"].extend(self._tokenizer.batch_decode(rollout.responses, skip_special_tokens=True))
        self._logs["rewards"][_answer_likelihood.__name__].extend(rewards_B.tolist())
        self._logs["advantages"].extend(advantages_B.tolist())

    def _log_credit(
        self,
        s_BT: Tensor,
        weights_BT: Tensor,
        clipped_BT: Tensor,
        reasoning_BT: Tensor,
        advantages_B: Tensor,
        batch: dict[str, Tensor],
    ) -> None:
        if not reasoning_BT.any():
            return
        metrics = self._metrics["train"]
        s, weights = s_BT[reasoning_BT], weights_BT[reasoning_BT].abs()
        flipped = (batch["advantages"] * advantages_B.unsqueeze(1) < 0)[reasoning_BT]
        assert not flipped.any(), "direction-preserving credit keeps the sign of every advantage"
        metrics["credit/log_ratio_mean"].append(s.mean().item())
        metrics["credit/log_ratio_std"].append(s.std().item() if s.numel() > 1 else 0.0)
        metrics["credit/clip_ratio"].append(clipped_BT[reasoning_BT].float().mean().item())
        metrics["credit/sign_flip_ratio"].append(flipped.float().mean().item())
        for percent in (50, 90, 99):
            metrics[f"credit/weight_abs_p{percent}"].append(weights.quantile(percent / 100).item())


def _answer_likelihood(**_: Any) -> list[float]:
    """TRL wants a reward function at construction and names the reward by it; the trainer scores rollouts itself."""
    raise AssertionError("GeneralThinkerTrainer computes its rewards where the policy is at hand")


def _token_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, each of at most `max_tokens` padded tokens, or of one row."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batch and (len(batch) + 1) * lengths[row] > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@contextmanager
def _without_adapter(model: Any) -> Iterator[None]:
    """The base model under a PEFT adapter, or under the frozen copy that TRL makes of an adapter trained before."""
    if "ref" not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    active = model.active_adapter
    model.set_adapter("ref")
    try:
        yield
    finally:
        model.set_adapter(active)
