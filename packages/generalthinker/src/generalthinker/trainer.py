"""GeneralThinkerTrainer: TRL's GRPOTrainer with the answer's likelihood as reward and the answer as a source of credit.

TRL keeps what it does well: groups, vLLM, the clipped surrogate and its KL term, optimiser, logging. Replaced are the
sampling without an engine (`_generate_single_turn`), the scoring of a rollout (`_generate_and_score_completions`) and
the log-probabilities, which are exact, get position ids and run the head on response tokens only
(`_get_per_token_logps_and_entropies`). Every private method of TRL that
this package overrides or calls stands in this file; `tests/test_trl_contract.py` names each with its signature.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from hashlib import sha256
from importlib.util import find_spec
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_callback import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from . import credit as credits
from . import metrics
from ._common import (
    AnswerScore,
    AnswerScorer,
    DependableMixin,
    Generator,
    Problem,
    ScoringItem,
    SettingsError,
    call_through,
    can_branch,
    chat,
    check_head,
    gathered,
    grade,
    masked_logprobs,
    naming_what_to_lower,
    ranks,
    split_response,
    trained_weights,
)
from .arguments import rollout_responses, samples_itself
from .config import MethodSettings
from .likelihoods import in_rows, response_logprobs, wanted_continuations
from .rewards import advantages_of, answer_values, probability_gain, reward_responses
from .rollout import (
    Rollout,
    TokenIds,
    loss_mask,
    pad,
    reasoning_mask,
    sampling_logprobs,
    sampling_ratio,
)

SAMPLING_MODES = ("sequence_mask", "sequence_truncate", "token_mask", "token_truncate")

# B responses of this process's rollout (the G of one prompt stand together), W those of all processes, P prompt tokens
# (padded on the left), T response tokens (padded on the right)


def check_combination(args: GRPOConfig, method: MethodSettings, problems: int, *, ranks: int) -> None:
    """SettingsError where settings that are each possible are not so together, or for this number of problems.

    ranks: of the run.
    """
    if args.n_gpu > 1:
        raise SettingsError(f"{args.n_gpu} GPUs in one process: start one process a GPU with --gpus {args.n_gpu}")
    if args.use_vllm and find_spec("vllm") is None:
        raise SettingsError('training.use_vllm = true needs vLLM: pip install "generalthinker[vllm]"')
    if args.use_vllm and args.vllm_importance_sampling_mode not in SAMPLING_MODES:
        raise SettingsError(
            f"training.vllm_importance_sampling_mode = {args.vllm_importance_sampling_mode!r}: expected one of "
            f"{', '.join(SAMPLING_MODES)}"
        )
    if method.credit != "none" and method.base_policy == "reference" and args.beta == 0.0:
        raise SettingsError(
            f"method.credit = {method.credit!r} compares with the reference policy, which training.beta = 0 leaves "
            "out: set training.beta above 0, or method.credit_base to current"
        )
    if method.reward == "probability" and method.malformed == "below_worst":
        raise SettingsError(
            "method.malformed = 'below_worst' would give probabilities below 0: use floor or exclude with "
            "method.reward = probability"
        )
    prompts = rollout_responses(args, ranks=ranks) // args.num_generations
    if problems < prompts:
        raise SettingsError(
            f"a rollout takes {prompts} problems and the data has {problems}: lower "
            "training.per_device_train_batch_size, gradient_accumulation_steps or steps_per_generation"
        )


class GeneralThinkerTrainer(DependableMixin, GRPOTrainer):
    """Trains a causal language model by the likelihood of reference answers.

    Args:
        model: the policy, plain or with a fresh PEFT adapter. The reference is what it was loaded from: TRL loads that
            again, at the revision in `args.model_init_kwargs`, or switches the adapter off.
        args: TRL's configuration; `beta`, `num_generations`, `num_iterations`, ... mean what they mean in TRL.
        method: reward, credit and prompts.
        train_dataset: columns `id`, `prompt` (what the user says), `conditioned_prompt` (the same with the answer
            shown), `assistant_prefix` (how the answer-conditioned response begins), `answer`: see
            `data.training_rows`.
        processing_class: the tokenizer.
        problems: by the rows' ids, with the answers that count as right; `reward: binary` grades by them.
        chat_template: auto | none | path, see `chat.render_prompt`.
        generation_tokens: prompts and responses, padded, that a process generates at once.
        dependable: the arguments of `DependableMixin`, for runs that are saved and resumed.

    Raises:
        SettingsError: a combination that this trainer does not support.
    """

    _tag_names = ["generalthinker", "trl", "grpo"]  # noqa: RUF012 (TRL's own attribute)
    args: GRPOConfig
    model: PreTrainedModel
    processing_class: PreTrainedTokenizerBase

    def __init__(
        self,
        model: PreTrainedModel,
        args: GRPOConfig,
        method: MethodSettings,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        *,
        problems: Mapping[str, Problem] | None = None,
        chat_template: str = "auto",
        generation_tokens: int = 131072,
        callbacks: list[TrainerCallback] | None = None,
        **dependable: Any,
    ) -> None:
        check_combination(args, method, len(train_dataset), ranks=args.world_size)
        check_head(model, ranks=args.world_size)
        assert method.reward != "binary" or problems is not None, "a binary reward grades by the problems"
        self.method = method
        self.chat_template_setting = chat_template
        self.generation_tokens = generation_tokens
        self.last_credit: list[tuple[TokenIds, list[float]]] = []  # responses of the newest rollout and their weights
        self._problems = problems or {}
        self._sampled_step, self._rollout_of_step = -1, 0  # of the newest rollout; a step may have several
        # On a quantized base TRL rounds the adapter to bfloat16, in which an update of a small learning rate vanishes.
        adapter = trained_weights(model) if getattr(model, "is_quantized", False) else {}
        super().__init__(
            model=model,
            reward_funcs=_reward,
            args=args,
            train_dataset=train_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            **dependable,
        )
        for name, weight in adapter.items():
            parameter = self.model.get_parameter(name)
            parameter.data = weight.to(parameter.device)
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

    # ------------------------------------------------------------------------------------------------ resuming

    def rank_state(self) -> dict[str, Any]:
        """The rollout that the next steps train on, in the middle of a round; what is logged of it next."""
        state: dict[str, Any] = {}
        if self._buffered_inputs is not None and self._step % (self.args.steps_per_generation * self.num_iterations):
            state |= {"step": self._step, "rollout": self._buffered_inputs}
        if pending := {name: list(values) for name, values in self._metrics["train"].items() if values}:
            state["metrics"] = pending
        return state

    def load_rank_state(self, state: dict[str, Any]) -> None:
        if "rollout" in state:
            self._step = state["step"]
            self._buffered_inputs = [
                {
                    name: value.to(self.args.device) if isinstance(value, Tensor) else value
                    for name, value in part.items()
                }
                for part in state["rollout"]
            ]
        for name, values in state.get("metrics", {}).items():
            self._metrics["train"][name].extend(values)

    # ------------------------------------------------------------------------------------------------ rollout to batch

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """One rollout: sample, reward, advantages, token credit. Returns the batch that TRL's loss works on."""
        rollout = self._sample(inputs)
        modulated = self.method.credit != "none"
        needs_current = modulated and (self.method.base_policy == "current" or self.method.entropy_gate is not None)
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        needs_old = corrected or not self._on_policy()

        reasoning_BT = reasoning_mask(rollout)
        covered_BT = loss_mask(rollout, reward=self.method.reward, malformed=self.method.malformed)
        current_BT = entropies_BT = reference_BT = conditioned_BT = None
        with (
            torch.no_grad(),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
            gathered(self.model_wrapped) as policy,  # ranks score different numbers of batches
            self.accelerator.autocast(),
        ):
            can_branch(self.model)  # found out here, where the weights are whole: the update cannot
            items = self._scoring_items(rollout, inputs)
            if needs_current or needs_old:
                answer_scores, current_BT, entropies_BT = self._score_answers_and_responses(
                    items, rollout, covered_BT if needs_old else reasoning_BT
                )
            else:
                answer_scores = self._score_answers(items)
            scores_B = self.reward_scores(rollout, inputs, answer_scores)
            if self.beta != 0.0:
                reference_BT = self._reference_logprobs(policy, rollout, covered_BT)
            if modulated:
                conditioned_BT = self._response_logprobs(policy, self._conditioned(rollout, inputs), reasoning_BT)

        rewards_B, advantages_B = self._advantages(rollout, scores_B, answer_scores)
        batch = self._batch(rollout)
        if needs_old:
            batch["old_per_token_logps"] = current_BT
        if reference_BT is not None:
            batch["ref_per_token_logps"] = reference_BT
        reasoning_BT = reasoning_BT.to(advantages_B.device)
        batch["tool_mask"] = covered_BT.long().to(
            advantages_B.device
        )  # TRL: tokens of the loss; attention keeps them all
        if corrected:
            batch |= self._correction(rollout, current_BT, batch["tool_mask"])
        batch["advantages"] = advantages_B.unsqueeze(1) * batch["tool_mask"]
        if conditioned_BT is not None:
            base_BT = current_BT if self.method.base_policy == "current" else reference_BT
            assert base_BT is not None, "check_combination wants the base policy's log-probabilities to be there"
            credited_BT = self._gate(reasoning_BT, entropies_BT)
            s_BT = self._control(conditioned_BT - base_BT, credited_BT)
            credit = self._credit(s_BT, credited_BT, advantages_B)
            batch["advantages"] = torch.where(credited_BT, credit.advantages_BT, batch["advantages"])
            self._log_credit(s_BT, credit, credited_BT, advantages_B)
            self.last_credit = list(zip(rollout.responses, credit.weights_BT.tolist(), strict=True))
        if self.method.reward == "probability":
            # As plain data, which a checkpoint in the middle of a round can hold.
            batch["answer_items"] = [None if item is None else astuple(item) for item in items]
            batch["answer_weights"] = scores_B
        tokens = (batch["completion_mask"] * batch["tool_mask"]).sum()
        batch["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
        self._log_completions(inputs, rollout, rewards_B, advantages_B)
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
        at_once = (
            f"generation.max_tokens_per_batch (now {self.generation_tokens})"
            if samples_itself(self.args)
            else f"training.per_device_train_batch_size (now {self.args.per_device_train_batch_size}) or "
            f"training.steps_per_generation (now {self.args.steps_per_generation})"
        )
        with naming_what_to_lower(
            f"generating the rollout of {len(inputs)} responses",
            f"{at_once} for fewer responses at once, or generation.max_new_tokens (now "
            f"{self.args.max_completion_length}) for shorter ones",
        ):
            prompts, responses, _, _, logprobs, *_ = self._generate([row["prompt"] for row in inputs])
        truncated = [ids[-1] not in self.eos_token_ids for ids in responses]
        splits = [
            split_response(self.processing_class, ids, truncated=cut)
            for ids, cut in zip(responses, truncated, strict=True)
        ]
        return Rollout(prompts, responses, splits, truncated, logprobs if self.use_vllm else None)

    def _generate_single_turn(
        self,
        prompt_ids: list[TokenIds],
        images: Any,
        multimodal_fields: Any,
        num_generations: int,
        has_tool_images: bool = False,
    ) -> tuple[list[TokenIds], Any]:
        """(responses with the token that ended them, their log-probabilities or None), in the order of `prompt_ids`.

        Within a token budget, each prompt read once for its group, and a response that has ended waits for no other,
        where all layers are attention (see `Generator`). What is sampled follows from the seed, the step and the
        response's place in the rollout of all processes.
        """
        if not samples_itself(self.args):
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images=has_tool_images
            )
        step = self.state.global_step
        self._rollout_of_step = self._rollout_of_step + 1 if step == self._sampled_step else 0
        self._sampled_step = step
        first = self.accelerator.process_index * len(prompt_ids)
        places = range(first, first + len(prompt_ids))
        with (
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
            gathered(self.model_wrapped) as policy,  # ranks sample different numbers of tokens
            self.accelerator.autocast(),
        ):
            sampled = Generator(
                policy,
                self.processing_class,
                max_new_tokens=self.max_completion_length,
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k,
                max_tokens_per_batch=self.generation_tokens,
                seed=self.args.seed,
                eos_ids=self.eos_token_ids,
            ).generate(prompt_ids, keys=[f"{step}/{self._rollout_of_step}/{place}" for place in places])
        return [
            [*response.token_ids, *([] if response.end_id is None else [response.end_id])] for response in sampled
        ], None

    def _correction(self, rollout: Rollout, current_BT: Tensor | None, mask_BT: Tensor) -> dict[str, Tensor]:
        """What the loss needs where vLLM sampled: its log-probabilities, and the ratio that corrects for them."""
        assert current_BT is not None
        sampling_BT = sampling_logprobs(rollout).to(current_BT.device)
        ratio = sampling_ratio(
            current_BT,
            sampling_BT,
            mask_BT,
            mode=self.vllm_importance_sampling_mode,
            low=self.vllm_importance_sampling_clip_min,
            high=self.vllm_importance_sampling_clip_max,
        )
        difference_N = self._of_all_processes((current_BT - sampling_BT)[mask_BT.bool()])
        ratio_N = self._of_all_processes(ratio[mask_BT.bool()] if ratio.shape == mask_BT.shape else ratio.flatten())
        self._record(metrics.sampling_statistics(difference_N, ratio_N))
        return {"sampling_per_token_logps": sampling_BT, "importance_sampling_ratio": ratio}

    def _conditioned(self, rollout: Rollout, inputs: list[dict[str, Any]]) -> Rollout:
        """The same responses behind the prompts that show the answer."""
        return rollout.behind(
            [
                chat.render_prompt(
                    self.processing_class,
                    row["conditioned_prompt"],
                    chat_template=self.chat_template_setting,
                    assistant_prefix=row["assistant_prefix"],
                )
                for row in inputs
            ]
        )

    # ------------------------------------------------------------------------------------------------ reward

    def _scoring_items(self, rollout: Rollout, inputs: list[dict[str, Any]]) -> list[ScoringItem | None]:
        """What log pi(a* | x, y_R) is asked of, per response; None where the response is malformed."""
        return [
            ScoringItem(
                prompt=rollout.prompts[index],
                reasoning=rollout.reasoning_ids(index),
                answer=row["answer"],
                suffix="}",
                opening=rollout.splits[index].opening,
            )
            if rollout.splits[index].well_formed
            else None
            for index, row in enumerate(inputs)
        ]

    def _score_answers(self, items: Sequence[ScoringItem | None]) -> list[AnswerScore | None]:
        with naming_what_to_lower(
            "scoring the answers", f"method.max_tokens_per_batch (now {self.method.max_tokens_per_batch})"
        ):
            scores = iter(self.scorer.score([item for item in items if item is not None]))
        return [None if item is None else next(scores) for item in items]

    def _score_answers_and_responses(
        self, items: Sequence[ScoringItem | None], rollout: Rollout, wanted_BT: Tensor
    ) -> tuple[list[AnswerScore | None], Tensor, Tensor]:
        """The same, and log-probabilities and entropies (B, T) of the wanted tokens, from one reading of the policy."""
        with naming_what_to_lower(
            "scoring the rollout", f"method.max_tokens_per_batch (now {self.method.max_tokens_per_batch})"
        ):
            found, logprobs, entropies = self.scorer.score_beside(
                [item for item in items if item is not None],
                wanted_continuations(rollout, wanted_BT, self.temperature),
                with_entropy=True,
            )
        scores = iter(found)
        device = self.accelerator.device
        return (
            [None if item is None else next(scores) for item in items],
            in_rows(logprobs, wanted_BT).to(device),
            in_rows(entropies, wanted_BT).to(device),
        )

    def reward_scores(
        self, rollout: Rollout, inputs: list[dict[str, Any]], answer_scores: Sequence[AnswerScore | None]
    ) -> Tensor:
        """The score that the reward of each response is made of (B,); 0 where it is malformed.

        A subclass may give another: see examples/own_reward.py.
        """
        match self.method.reward:
            case "binary":
                texts = self._tokenizer.batch_decode(rollout.responses, skip_special_tokens=True)
                values = [
                    float(grade(self._problems[row["id"]], text).correct)
                    for row, text in zip(inputs, texts, strict=True)
                ]
                scores_B = torch.tensor(values)
            case "mean_probability":
                without_B = torch.tensor(self._without_reasoning(rollout, inputs))
                scores_B = probability_gain(answer_values(self.method.reward, answer_scores), without_B)
            case "likelihood" | "probability":
                scores_B = answer_values(self.method.reward, answer_scores)
        return scores_B.to(self.accelerator.device)

    def _without_reasoning(self, rollout: Rollout, inputs: list[dict[str, Any]]) -> list[float]:
        r"""mean_t pi(a*_t | x, ..) of every response's prompt, with the box opened at once; one score a prompt."""
        asked = {(tuple(prompt), row["answer"]): None for prompt, row in zip(rollout.prompts, inputs, strict=True)}
        scores = self.scorer.score([ScoringItem(prompt, r"\boxed{", answer, "}") for prompt, answer in asked])
        found = dict(zip(asked, (score.mean_probability for score in scores), strict=True))
        return [found[tuple(prompt), row["answer"]] for prompt, row in zip(rollout.prompts, inputs, strict=True)]

    def _advantages(
        self, rollout: Rollout, scores_B: Tensor, answer_scores: Sequence[AnswerScore | None]
    ) -> tuple[Tensor, Tensor]:
        """(rewards_B, advantages_B). Groups are taken over all processes, since two may share one."""
        method, group_size = self.method, self.num_generations
        answer_logprobs = [torch.nan if score is None else score.sum for score in answer_scores]
        local = torch.tensor(
            [rollout.well_formed, rollout.boxed, rollout.truncated, answer_logprobs], device=scores_B.device
        )
        scores_W, facts_W4 = self.accelerator.gather((scores_B, local.T.contiguous()))
        well_formed_W, boxed_W, truncated_W = facts_W4[:, :3].bool().T
        rewards_W = scores_W
        if method.reward != "binary":  # a verifier judges every response
            rewards_W = reward_responses(
                scores_W,
                well_formed_W,
                group_size,
                malformed=method.malformed,
                floor=method.floor,
                margin=method.malformed_margin,
            )
        advantages_W, group_std = advantages_of(
            rewards_W, group_size, reward=method.reward, min_group_std=method.min_group_std
        )
        self._record(
            metrics.rollout_statistics(
                rewards_W,
                facts_W4[:, 3],
                well_formed_W,
                boxed_W,
                truncated_W,
                advantages_W,
                group_std,
                min_group_std=method.min_group_std,
            )
        )
        start = self.accelerator.process_index * len(scores_B)
        own = slice(start, start + len(scores_B))
        return rewards_W[own], advantages_W[own]

    # ------------------------------------------------------------------------------------------------ credit

    def _gate(self, reasoning_BT: Tensor, entropies_BT: Tensor | None) -> Tensor:
        """The tokens whose advantage is modulated: the reasoning, or its share of highest entropy."""
        if self.method.entropy_gate is None:
            return reasoning_BT
        assert entropies_BT is not None
        entropies_N = self._of_all_processes(entropies_BT[reasoning_BT])
        if not len(entropies_N):
            return reasoning_BT
        threshold = torch.quantile(entropies_N.double(), 1 - self.method.entropy_gate)
        return credits.high_entropy_tokens(entropies_BT, reasoning_BT, threshold)

    def _control(self, s_BT: Tensor, mask_BT: Tensor) -> Tensor:
        match self.method.credit_control:
            case "none":
                return s_BT
            case "shuffle":
                # From numbers that a resumed run knows; ranks have responses of their own.
                seed = f"{self.args.seed}/{self.state.global_step}/{self.accelerator.process_index}"
                generator = torch.Generator().manual_seed(int.from_bytes(sha256(seed.encode()).digest()[:7]))
                return credits.shuffle(s_BT, mask_BT, generator)
            case "reverse":
                return credits.reverse(s_BT)

    def _credit(self, s_BT: Tensor, mask_BT: Tensor, advantages_B: Tensor) -> credits.TokenCredit:
        method = self.method
        batch_std = None
        if method.credit == "projection":
            squares = self.accelerator.reduce(credits.squared_deviations(s_BT, mask_BT), reduction="sum")
            batch_std = credits.deviation(squares).to(s_BT.dtype)
        return credits.by_rule(
            method.credit,
            s_BT,
            mask_BT,
            advantages_B,
            strength=method.credit_strength,
            token_clip=method.token_clip,
            batch_std=batch_std,
            mix=credits.rlsd_mix(self.state.global_step, start=method.rlsd_mix, steps=method.rlsd_steps),
            bound=method.rlsd_clip,
        )

    def _of_all_processes(self, values_N: Tensor) -> Tensor:
        """The values of all processes, of which each may have another number (N, ...)."""
        if self.accelerator.num_processes == 1:
            return values_N
        counts = self.accelerator.gather(torch.tensor([len(values_N)], device=values_N.device)).tolist()
        padded = values_N.new_zeros(1, max(counts), *values_N.shape[1:])
        padded[0, : len(values_N)] = values_N
        rows = self.accelerator.gather(padded)
        return torch.cat([row[:count] for row, count in zip(rows, counts, strict=True)])

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
        """Log-probabilities and entropies (B, logits_to_keep) of the last tokens, as TRL's loss asks for them.

        Only those under the loss mask are computed; the others are 0. A prompt is read once for all of its responses.
        """
        assert not compute_aux_loss and all(value is None for value in multimodal.values()), (
            "text models without experts"
        )

        def compute(
            policy: PreTrainedModel, input_ids_BT: Tensor, attention_mask_BT: Tensor, wanted_BT: Tensor
        ) -> tuple[Tensor, Tensor]:
            return masked_logprobs(
                policy,
                input_ids_BT,
                attention_mask_BT,
                torch.nn.functional.pad(wanted_BT, (input_ids_BT.shape[1] - logits_to_keep, 0)),
                temperature=self.temperature,
                entropy_grad=self._entropy_bonus_enabled,
                one_pass=self._sharded(),
            )

        with self.accelerator.autocast():
            logprobs, entropies = call_through(
                model, self.accelerator.unwrap_model(model), compute, input_ids, attention_mask, self._loss_tokens
            )
        kept = slice(-logits_to_keep, None)
        return logprobs[:, kept], entropies[:, kept] if compute_entropy else None, None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's loss, and for `reward: probability` the reward-weighted likelihood of the answer."""
        self._loss_tokens = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
        loss = super()._compute_loss(model, inputs)
        if "answer_items" not in inputs:
            return loss
        weighted = [
            (ScoringItem(*item), weight)
            for item, weight in zip(inputs["answer_items"], inputs["answer_weights"], strict=True)
            if item is not None
        ]
        if not weighted:  # a rank without a well-formed response takes part in what the others do
            weighted = [(ScoringItem([self._tokenizer.eos_token_id], [], "0"), torch.zeros_like(loss))]

        def weighted_nll(policy: PreTrainedModel, weights_N: Tensor) -> Tensor:
            logprobs = self.scorer.logprobs([item for item, _ in weighted], one_pass=self._sharded())
            return -(weights_N * torch.stack([tokens.sum() for tokens in logprobs])).sum()

        weights_N = torch.stack([weight for _, weight in weighted])

        with self.accelerator.autocast():
            answer_loss = call_through(model, self.accelerator.unwrap_model(model), weighted_nll, weights_N)
        return loss + answer_loss / len(inputs["answer_items"]) / self.current_gradient_accumulation_steps

    def _response_logprobs(self, model: Any, rollout: Rollout, wanted_BT: Tensor) -> Tensor:
        return response_logprobs(
            model,
            rollout,
            wanted_BT,
            temperature=self.temperature,
            max_tokens_per_batch=self.method.max_tokens_per_batch,
        ).to(self.accelerator.device)

    def _reference_logprobs(self, policy: Any, rollout: Rollout, wanted_BT: Tensor) -> Tensor:
        if self.ref_model is not None:
            with gathered(self.ref_model) as reference:
                return self._response_logprobs(reference, rollout, wanted_BT)
        with _without_adapter(policy):
            return self._response_logprobs(policy, rollout, wanted_BT)

    def _on_policy(self) -> bool:
        """Whether the update sees the policy that sampled, so that its own log-probabilities are the old ones."""
        return self.args.gradient_accumulation_steps % (self.args.steps_per_generation * self.num_iterations) == 0

    def _sharded(self) -> bool:
        return self.accelerator.num_processes > 1 and is_deepspeed_zero3_enabled()

    def _batch(self, rollout: Rollout) -> dict[str, Any]:
        prompt_ids, prompt_mask = self._pad(rollout.prompts, "left")
        completion_ids, completion_mask = self._pad(rollout.responses, "right")
        return {
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
            "completion_ids": completion_ids,
            "completion_mask": completion_mask,
        }

    def _pad(self, rows: Sequence[TokenIds], side: str) -> tuple[Tensor, Tensor]:
        """(ids, mask) of shape (B, longest row), where the policy is."""
        ids, mask = pad(rows, side, self._tokenizer.pad_token_id)
        return ids.to(self.accelerator.device), mask.to(self.accelerator.device)

    # ------------------------------------------------------------------------------------------------ logging

    def _log_credit(self, s_BT: Tensor, credit: credits.TokenCredit, mask_BT: Tensor, advantages_B: Tensor) -> None:
        flipped_BT = credit.advantages_BT * advantages_B.unsqueeze(1) < 0
        columns = (s_BT, credit.weights_BT, credit.clipped_BT, flipped_BT)
        local_N4 = torch.stack([column[mask_BT].to(s_BT.dtype) for column in columns], dim=1)
        s_N, weights_N, clipped_N, flipped_N = self._of_all_processes(local_N4).T
        assert self.method.credit not in credits.KEEPS_SIGN or not flipped_N.any(), "this rule keeps every sign"
        self._record(metrics.credit_statistics(s_N, weights_N, clipped_N, flipped_N))

    def _log_completions(
        self, inputs: list[dict[str, Any]], rollout: Rollout, rewards_B: Tensor, advantages_B: Tensor
    ) -> None:
        """What TRL's `log_completions` prints and stores."""
        texts = self._tokenizer.batch_decode(rollout.responses, skip_special_tokens=True)
        columns = ([row["prompt"] for row in inputs], texts, rewards_B.tolist(), advantages_B.tolist())
        for prompts, texts, rewards, advantages in ranks.gather(columns, "completions"):
            self._logs["prompt"].extend(prompts)
            self._logs["completion"].extend(texts)
            self._logs["rewards"][_reward.__name__].extend(rewards)
            self._logs["advantages"].extend(advantages)

    def _record(self, statistics: Mapping[str, float]) -> None:
        for name, value in statistics.items():
            self._metrics["train"][name].append(value)


def _reward(**_: Any) -> list[float]:
    """TRL wants a reward function at construction and names the reward by it; the trainer scores rollouts itself."""
    raise AssertionError("GeneralThinkerTrainer computes its rewards where the policy is at hand")


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
