"""The trainer on replayed responses, against computations written out with full logits."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOTrainer

from generalthinker.arguments import planned_steps, training_arguments
from generalthinker.callbacks import status
from generalthinker.config import MethodSettings, Settings
from generalthinker.data import training_rows
from generalthinker.rollout import Rollout, loss_mask, reasoning_mask, whole_mask
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common.benchmarks import chains
from thinker_common.errors import UserError
from thinker_common.likelihood.logprobs import CHUNK_TOKENS, token_logprobs
from thinker_common.models.chat import render_prompt
from thinker_common.models.load import load_policy, load_tokenizer
from thinker_common.training.callbacks import MetricsLog
from thinker_common.training.run_folder import RunFolder

PROBLEMS = chains.generate("train", 2, seed=3)
GROUP = 4
# One group of each problem: good ones with the true and with another answer, and one of each malformation.
RESPONSES = [
    "12+3=15. So \\boxed{15}<|end|>",
    "1+1=2. The answer is \\boxed{7}.<|end|>",
    "It is<|end|>",  # no box
    "2+2=4. 4+4=8. So \\boxed{8",  # truncated
    "9-4=5. So \\boxed{5}<|end|>",
    "It must be \\boxed{}<|end|>",  # empty answer
    "\\boxed{3}<|end|>",  # empty reasoning
    "(7+3)*2=20. 20/4=5. So \\boxed{5}.<|end|>",
]
WELL_FORMED = [True, True, False, False, True, False, False, True]
TRUNCATED = [False, False, False, True, False, False, False, False]


@pytest.fixture
def make_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GeneralThinkerTrainer]:
    """A trainer of the embedded model that 'samples' RESPONSES. Keyword arguments are settings of the method."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def make(
        dtype: torch.dtype = torch.float64, training: dict[str, Any] | None = None, **method: Any
    ) -> GeneralThinkerTrainer:
        settings = Settings(
            method=MethodSettings(**method),
            training={"num_generations": GROUP, "per_device_train_batch_size": 8, "beta": 0.1, **(training or {})},
        )
        tokenizer = load_tokenizer("embedded")
        arguments = training_arguments(settings, tmp_path)
        trainer = GeneralThinkerTrainer(
            model=load_policy("embedded").to(dtype),
            args=arguments,
            method=settings.method,
            train_dataset=training_rows(PROBLEMS, settings.method, seed=0),
            processing_class=tokenizer,
        )
        # A reference that differs from the policy, so that the KL term and the log-ratios are not zero.
        torch.manual_seed(1)
        for parameter in trainer.ref_model.parameters() if trainer.ref_model is not None else ():
            parameter.data += 0.02 * torch.randn_like(parameter)
        trainer.model.train()
        responses = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in RESPONSES]

        def replay(prompts: list[str]) -> tuple:
            ids, *_ = trainer._tokenize_prompts(prompts)
            return ids, responses, None, RESPONSES, None, {}, None, None

        monkeypatch.setattr(trainer, "_generate", replay)
        return trainer

    return make


def rollout_rows(rows: Dataset) -> list[dict[str, Any]]:
    return [rows[index] for index in (0, 1) for _ in range(GROUP)]


def full_logprobs(model: Any, prompt: list[int], continuation: list[int]) -> Tensor:
    """Log-probabilities of the continuation's tokens, from the full logits of one unpadded row."""
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([prompt + continuation])).logits[0].double()
    logprobs_TV = logits_TV.log_softmax(-1)
    start = len(prompt)
    return torch.stack([logprobs_TV[start + i - 1, token] for i, token in enumerate(continuation)])


def expected(
    trainer: GeneralThinkerTrainer,
    *,
    credit: str,
    strength: float,
    clip: float,
    rows: list[dict[str, Any]] | None = None,
    silenced: float = 0.0,
) -> list[dict[str, Any]]:
    """Everything the batch should hold, response by response, in plain Python.

    rows: of the rollout. silenced: a group whose rewards deviate less has no advantage.
    """
    tokenizer = trainer.processing_class
    rows = rows or rollout_rows(trainer.train_dataset)
    out = []
    for row, text, well_formed, truncated in zip(rows, RESPONSES, WELL_FORMED, TRUNCATED, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        prompt = render_prompt(tokenizer, row["prompt"])
        reasoning = 0
        reward = -30.0
        if well_formed:
            while not tokenizer.decode(ids[:reasoning]).endswith("\\boxed{"):
                reasoning += 1
            answer = tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
            reward = full_logprobs(trainer.model, prompt + ids[:reasoning], answer).sum().item()
            with torch.no_grad():
                logits_TV = trainer.model(input_ids=torch.tensor([prompt + ids[:reasoning] + answer])).logits[0]
            closing = [token for text, token in tokenizer.get_vocab().items() if text.startswith("}")]
            reward += logits_TV[-1].log_softmax(-1)[closing].logsumexp(0).item()
        conditioned = render_prompt(tokenizer, row["conditioned_prompt"])
        s = full_logprobs(trainer.model, conditioned, ids) - full_logprobs(trainer.ref_model, prompt, ids)
        covered = reasoning if well_formed else 0 if truncated else len(ids)
        out.append({"reward": reward, "s": s, "reasoning": reasoning, "covered": covered, "length": len(ids)})
    for start in (0, GROUP):
        rewards = torch.tensor([item["reward"] for item in out[start : start + GROUP]], dtype=torch.float64)
        for item, reward in zip(out[start : start + GROUP], rewards, strict=True):
            advantage = ((reward - rewards.mean()) / (rewards.std() + 1e-4)).item()
            advantage = 0.0 if rewards.std() < silenced else advantage
            item["advantage"], item["group_std"] = advantage, rewards.std().item()
            item["advantages"] = torch.full((item["covered"],), advantage, dtype=torch.float64)
            if credit != "none" and item["reasoning"]:
                s = item["s"][: item["reasoning"]]
                d = (s - s.mean()) / (s.std(unbiased=False) + 1e-6)
                item["clipped"] = (d.abs() > clip) & (credit != "additive")
                if credit == "additive":
                    item["weights"], scale = d, 1.0
                else:
                    d = d.clamp(-clip, clip)
                    d = d - d.mean()
                    item["weights"], scale = d / max(1.0, d.abs().max().item()), abs(advantage)
                item["advantages"] = advantage + strength * scale * item["weights"]
    return out


@pytest.mark.parametrize("credit", ["none", "controlled"])
def test_batch_equals_the_equations(make_trainer: Callable[..., GeneralThinkerTrainer], credit: str) -> None:
    trainer = make_trainer(credit=credit, credit_strength=0.3, token_clip=1.5)
    batch = trainer._generate_and_score_completions(rollout_rows(trainer.train_dataset))
    wanted = expected(trainer, credit=credit, strength=0.3, clip=1.5)
    for row, item in enumerate(wanted):
        covered = item["covered"]
        mask = batch["tool_mask"][row] * batch["completion_mask"][row]
        assert mask.tolist() == [1] * covered + [0] * (mask.numel() - covered), RESPONSES[row]
        assert batch["completion_mask"][row].sum() == item["length"], "attention keeps all tokens"
        torch.testing.assert_close(
            batch["advantages"][row, :covered].double(), item["advantages"], rtol=1e-5, atol=1e-5, msg=RESPONSES[row]
        )
    assert batch["num_items_in_batch"] == sum(item["covered"] for item in wanted)
    logged = trainer._metrics["train"]
    assert logged["reward"][0] == pytest.approx(sum(item["reward"] for item in wanted) / 8, rel=1e-5)
    assert logged["well_formed_rate"] == [0.5]
    assert logged["truncation_rate"] == [0.125]


def test_truncated_responses_enter_the_groups_statistics_but_not_the_loss(
    make_trainer: Callable[..., GeneralThinkerTrainer],
) -> None:
    trainer = make_trainer(credit="none")
    batch = trainer._generate_and_score_completions(rollout_rows(trainer.train_dataset))
    assert batch["tool_mask"][3].sum() == 0
    excluded = make_trainer(credit="none", malformed="exclude")
    others = excluded._generate_and_score_completions(rollout_rows(excluded.train_dataset))
    assert others["tool_mask"][[2, 3, 5, 6]].sum() == 0
    assert not torch.allclose(batch["advantages"][0], others["advantages"][0])


def test_gradient_against_finite_differences(
    make_trainer: Callable[..., GeneralThinkerTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole loss, surrogate and KL, in float64, with the old log-probabilities held fixed off the policy."""

    def norm_in_float64(self: Any, states: Tensor) -> Tensor:  # the library's own rounds to float32
        return self.weight * states * (states.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaRMSNorm.forward", norm_in_float64)
    trainer = make_trainer(credit="controlled", credit_strength=0.5)
    batch = trainer._generate_and_score_completions(rollout_rows(trainer.train_dataset))
    generator = torch.Generator().manual_seed(2)
    noise = 0.3 * torch.randn(batch["advantages"].shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        old = token_logprobs(
            trainer.model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            keep=batch["completion_ids"].shape[1],
        )
    batch["old_per_token_logps"] = old + noise
    ratio, advantages = (-noise).exp(), batch["advantages"]
    covered = (batch["tool_mask"] * batch["completion_mask"]).bool()
    for stopped in ((ratio > 1.2) & (advantages > 0), (ratio < 0.8) & (advantages < 0)):
        assert 0 < (stopped & covered).sum() < covered.sum() / 2, "the surrogate is flat on some tokens, not on most"
    trainer.current_gradient_accumulation_steps = 1

    def loss() -> Tensor:
        return trainer._compute_loss(trainer.model, batch)

    loss().backward()
    checked = 0
    for name, parameter in trainer.model.named_parameters():
        if not any(part in name for part in ("embed_tokens", "layers.0.self_attn.q_proj", "layers.3.mlp.down", "norm")):
            continue
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        analytic = (parameter.grad * direction).sum().item()
        step = 1e-4 / direction.norm().item()
        with torch.no_grad():
            parameter += step * direction
            above = loss().item()
            parameter -= 2 * step * direction
            below = loss().item()
            parameter += step * direction
        assert analytic == pytest.approx((above - below) / (2 * step), rel=2e-4, abs=1e-7), name
        checked += 1
    assert checked >= 5


def test_loss_is_the_clipped_surrogate_plus_beta_times_k3(
    make_trainer: Callable[..., GeneralThinkerTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and gradient with respect to the log-probabilities, written out."""
    trainer = make_trainer(credit="controlled", credit_strength=0.5)
    batch = trainer._generate_and_score_completions(rollout_rows(trainer.train_dataset))
    torch.manual_seed(4)
    shape = batch["advantages"].shape
    logprobs = torch.randn(shape, dtype=torch.float64).sub(2).requires_grad_()
    old = (logprobs.detach() + 0.3 * torch.randn(shape, dtype=torch.float64)).clone()
    batch["old_per_token_logps"] = old
    entropies = torch.zeros(shape, dtype=torch.float64)
    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", lambda *a, **k: (logprobs, entropies, None))
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, batch)
    [gradient] = torch.autograd.grad(loss, logprobs)

    advantages, mask = batch["advantages"].double(), (batch["tool_mask"] * batch["completion_mask"]).double()
    mine = logprobs.detach().clone().requires_grad_()
    ratio = (mine - old).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    log_ratio = batch["ref_per_token_logps"].double() - mine
    k3 = log_ratio.exp() - log_ratio - 1
    per_response = ((-surrogate + 0.1 * k3) * mask).sum(1) / mask.sum(1).clamp(min=1)
    expected_loss = per_response.mean()
    [expected_gradient] = torch.autograd.grad(expected_loss, mine)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("malformed", ["floor", "below_worst", "exclude"])
def test_a_rollout_without_a_well_formed_response(
    make_trainer: Callable[..., GeneralThinkerTrainer], monkeypatch: pytest.MonkeyPatch, malformed: str
) -> None:
    monkeypatch.setattr(f"{__name__}.RESPONSES", ["It is<|end|>", "So \\boxed{8"] * 4)
    trainer = make_trainer(dtype=torch.float32, training={"max_steps": 2}, malformed=malformed)
    folder = RunFolder.create(tmp := Path(trainer.args.output_dir).parent / malformed)
    written = MetricsLog(folder, lambda *_: None, [], status)
    trainer.add_callback(written)
    trainer.train()
    assert [row["well_formed_rate"] for row in written.rows if "reward" in row] == [0.0, 0.0]
    assert (tmp / "metrics.jsonl").read_text().count("\n") == len(written.rows)


@pytest.mark.parametrize(
    ("training", "setting"),
    [
        ({}, r"generation\.max_tokens_per_batch \(now 131072\)"),
        ({"min_p": 0.1}, r"training\.per_device_train_batch_size \(now 8\)"),
    ],
    ids=["in flight", "TRL"],
)
def test_a_rollout_that_does_not_fit_into_memory_says_what_to_lower(
    make_trainer: Callable[..., GeneralThinkerTrainer],
    monkeypatch: pytest.MonkeyPatch,
    training: dict[str, Any],
    setting: str,
) -> None:
    def too_much(prompts: list[str]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    trainer = make_trainer(dtype=torch.float32, training={"max_steps": 1, **training})
    monkeypatch.setattr(trainer, "_generate", too_much)
    with pytest.raises(UserError, match=f"rollout of 8 responses: lower {setting}"):
        trainer.train()


def test_a_rollout_that_is_trained_on_twice(
    make_trainer: Callable[..., GeneralThinkerTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """num_iterations = 2: both passes compare with the policy that sampled, which the second one has moved away from."""
    trainer = make_trainer(
        credit="controlled",
        credit_strength=0.5,
        training={
            "num_iterations": 2,
            "max_steps": 2,
            "learning_rate": 3e-4,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
        },
    )
    sampler = load_policy("embedded").to(torch.float64)
    passes: list[dict[str, Tensor]] = []
    compute_loss, training_step = trainer._compute_loss, trainer.training_step

    def remember(model: Any, inputs: dict[str, Tensor]) -> Tensor:
        passes.append({name: value.clone() for name, value in inputs.items() if isinstance(value, Tensor)})
        return compute_loss(model, inputs)

    def compare(*arguments: Any) -> Tensor:
        loss = training_step(*arguments)
        gradients = [parameter.grad for parameter in trainer.model.parameters()]
        trainer.model.zero_grad()
        brute, ratio = surrogate_and_kl(trainer.model, sampler, trainer.ref_model, passes[-1], beta=0.1)
        brute.backward()
        ours, theirs = (
            torch.cat([gradient.flatten() for gradient in side])
            for side in (gradients, [parameter.grad for parameter in trainer.model.parameters()])
        )
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm(), f"pass {len(passes)}"
        assert loss.item() == pytest.approx(brute.item(), rel=1e-6, abs=1e-6)
        passes[-1]["ratio"] = ratio
        for parameter, gradient in zip(trainer.model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        return loss

    monkeypatch.setattr(trainer, "_compute_loss", remember)
    monkeypatch.setattr(trainer, "training_step", compare)
    trainer.train()

    first, second = passes
    for name in ("completion_ids", "tool_mask", "advantages", "old_per_token_logps", "ref_per_token_logps"):
        assert torch.equal(first[name], second[name]), f"{name}: of the rollout, not of the pass"
    torch.testing.assert_close(first["ratio"], torch.ones_like(first["ratio"]), rtol=0, atol=1e-5)
    outside = (second["ratio"] - 1).abs() > 0.2
    assert 0 < outside.sum() < len(outside), "some tokens have left the clip range"


def surrogate_and_kl(
    policy: Any, sampler: Any, reference: Any, batch: dict[str, Tensor], *, beta: float
) -> tuple[Tensor, Tensor]:
    """The loss of a batch from full logits, one row at a time, and the ratios of the tokens that it covers.

    Of the batch come ids, masks and advantages. Its old log-probabilities have to be those of the sampler.
    """
    rows, ratios = [], []
    for row in range(len(batch["prompt_ids"])):
        prompt, response = (
            batch[f"{part}_ids"][row][batch[f"{part}_mask"][row].bool()] for part in ("prompt", "completion")
        )
        ids = torch.cat([prompt, response])[None]
        places = slice(len(prompt) - 1, -1)
        covered = batch["tool_mask"][row, : len(response)].bool()
        if not covered.any():
            rows.append(torch.zeros((), dtype=torch.float64))
            continue

        def logprobs(model: Any, ids: Tensor = ids, places: slice = places, response: Tensor = response) -> Tensor:
            logits = model(input_ids=ids).logits[0, places].double()
            return logits.log_softmax(-1).gather(1, response[:, None])[:, 0]

        with torch.no_grad():
            old, fixed = logprobs(sampler)[covered], logprobs(reference)[covered]
        stored = batch["old_per_token_logps"][row, : len(response)][covered]
        torch.testing.assert_close(stored.double(), old, rtol=0, atol=1e-5)
        logp = logprobs(policy)[covered]
        advantages = batch["advantages"][row, : len(response)][covered].double()
        ratio = (logp - old).exp()
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        k3 = (fixed - logp).exp() - (fixed - logp) - 1
        rows.append((beta * k3 - surrogate).mean())
        ratios.append(ratio.detach())
    return torch.stack(rows).mean(), torch.cat(ratios)


def test_own_answer_and_truncated_responses_get_no_gradient(
    make_trainer: Callable[..., GeneralThinkerTrainer],
) -> None:
    trainer = make_trainer(credit="none", training={"beta": 0.0})
    batch = trainer._generate_and_score_completions(rollout_rows(trainer.train_dataset))
    trainer.current_gradient_accumulation_steps = 1
    width = batch["completion_ids"].shape[1]
    captured: list[Tensor] = []
    original = trainer._get_per_token_logps_and_entropies

    def capture(*args: Any, **kwargs: Any) -> tuple:
        logprobs, *rest = original(*args, **kwargs)
        logprobs.retain_grad()
        captured.append(logprobs)
        return logprobs, *rest

    trainer._get_per_token_logps_and_entropies = capture
    trainer._compute_loss(trainer.model, batch).backward()
    touched = captured[0].grad != 0
    assert touched.shape == (8, width)
    outside = ~(batch["tool_mask"].bool() & batch["completion_mask"].bool())
    assert not (touched & outside).any()
    assert touched[0].any()
    assert not touched[3].any()


def test_gradient_does_not_depend_on_accumulation(make_trainer: Callable[..., GeneralThinkerTrainer]) -> None:
    gradients = []
    for size, steps in ((8, 1), (2, 4)):
        trainer = make_trainer(
            credit="controlled", training={"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        )
        batch = trainer._generate_and_score_completions(rollout_rows(trainer.train_dataset))
        trainer.current_gradient_accumulation_steps = steps
        for start in range(0, 8, size):
            part = {name: value[start : start + size] if value.dim() else value for name, value in batch.items()}
            trainer._compute_loss(trainer.model, part).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]))
    # The norms of this model are float32 whatever its weights are, and sum the gradients of a prompt that rows share.
    assert (gradients[0] - gradients[1]).norm() <= 1e-6 * gradients[0].norm()
    assert gradients[0].norm() > 0


def test_conditioning_in_the_assistant_turn(make_trainer: Callable[..., GeneralThinkerTrainer]) -> None:
    trainer = make_trainer(conditioning="assistant")
    row = trainer.train_dataset[0]
    assert row["conditioned_prompt"] == row["prompt"]
    conditioned = trainer._conditioned(
        trainer._sample(rollout_rows(trainer.train_dataset)), rollout_rows(trainer.train_dataset)
    )
    text = trainer.processing_class.decode(conditioned.prompts[0])
    assert text.endswith(f"<|assistant|>\\boxed{{{row['answer']}}}\n")


def test_two_steps_change_the_policy_and_log_what_the_method_promises(
    make_trainer: Callable[..., GeneralThinkerTrainer],
) -> None:
    trainer = make_trainer(dtype=torch.float32, training={"max_steps": 2, "learning_rate": 1e-3})
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.train()
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    assert not torch.equal(before, after)
    logs = [row for row in trainer.state.log_history if "reward" in row]
    assert len(logs) == 2
    for name in (
        "reward_std", "answer_logprob", "well_formed_rate", "boxed_rate", "truncation_rate", "groups_under_min_std",
        "credit/log_ratio_mean", "credit/log_ratio_std", "credit/clip_ratio", "credit/sign_flip_ratio",
        "credit/weight_abs_p50", "credit/weight_abs_p90", "credit/weight_abs_p99", "kl", "entropy", "grad_norm",
    ):  # fmt: skip
        assert all(name in row for row in logs), name
    assert all(row["credit/sign_flip_ratio"] == 0 for row in logs)


@pytest.mark.parametrize("credit", ["additive", "controlled"])
def test_metrics_jsonl_holds_the_numbers_of_the_rollout(
    make_trainer: Callable[..., GeneralThinkerTrainer],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    credit: str,
) -> None:
    """Every number of a step that is not TRL's own, counted from full logits; one of the two groups is silenced."""
    how = {"credit": credit, "strength": 0.9, "clip": 1.0}
    trainer = make_trainer(credit=credit, credit_strength=0.9, token_clip=1.0, training={"max_steps": 1})
    ids = [trainer.processing_class(text, add_special_tokens=False)["input_ids"] for text in RESPONSES]
    monkeypatch.setattr(trainer, "_generate", MethodType(GRPOTrainer._generate, trainer))  # which logs their lengths
    monkeypatch.setattr(trainer, "_generate_single_turn", lambda *_, **__: (ids, None))
    wanted: list[dict[str, Any]] = []
    original = trainer._generate_and_score_completions

    def rollout(rows: list[dict[str, Any]]) -> dict[str, Any]:
        deviations = [expected(trainer, rows=rows, **how)[row]["group_std"] for row in (0, GROUP)]
        trainer.method.min_group_std = sum(deviations) / 2
        wanted.extend(expected(trainer, rows=rows, silenced=trainer.method.min_group_std, **how))
        return original(rows)

    monkeypatch.setattr(trainer, "_generate_and_score_completions", rollout)
    trainer.add_callback(MetricsLog(RunFolder.create(tmp_path / "run"), lambda *_: None, [], status))
    trainer.train()
    logged = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])

    credited = [item for item, well_formed in zip(wanted, WELL_FORMED, strict=True) if well_formed]
    s = torch.cat([item["s"][: item["reasoning"]] for item in credited])
    weights = torch.cat([item["weights"] for item in credited]).abs()
    clipped = torch.cat([item["clipped"] for item in credited])
    flipped = torch.cat([item["advantages"] * item["advantage"] < 0 for item in credited])
    rewards = torch.tensor([item["reward"] for item in wanted], dtype=torch.float64)
    numbers = {
        "reward": rewards.mean(),
        "reward_std": rewards.std(),
        "answer_logprob": rewards[WELL_FORMED].mean(),
        "well_formed_rate": 4 / 8,
        "boxed_rate": 6 / 8,  # all but the one that has none and the one that does not close it
        "truncation_rate": 1 / 8,
        "groups_under_min_std": 1 / 2,
        "groups_without_signal": 1 / 2,
        "completions/mean_length": sum(map(len, ids)) / 8,
        "credit/log_ratio_mean": s.mean(),
        "credit/log_ratio_std": s.std(),
        "credit/clip_ratio": clipped.double().mean(),
        "credit/sign_flip_ratio": flipped.double().mean(),
        **{f"credit/weight_abs_p{q}": weights.quantile(q / 100) for q in (50, 90, 99)},
    }
    assert {name: logged[name] for name in numbers} == pytest.approx(
        {name: float(value) for name, value in numbers.items()}, rel=1e-4, abs=1e-6
    )
    assert (flipped.sum() > 0) == (credit == "additive"), "the control keeps every sign, and without it some are lost"
    assert (clipped.sum() > 0) == (credit == "controlled")


def test_a_sign_that_merges_with_the_brace(
    make_trainer: Callable[..., GeneralThinkerTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer writes `{-` as one token: it is neither reasoning nor gets a loss, and all of the answer is scored."""
    monkeypatch.setattr(f"{__name__}.RESPONSES", [f"2-7=-5. So \\boxed{{{own}}}<|end|>" for own in ("-5", "5", "-8", "12")] * 2)  # fmt: skip
    monkeypatch.setattr(
        f"{__name__}.PROBLEMS", [replace(PROBLEMS[0], answer="-5"), replace(PROBLEMS[0], id="five", answer="5")]
    )
    trainer = make_trainer(credit="none")
    tokenizer = trainer.processing_class
    batch = trainer._generate_and_score_completions(rollout_rows(trainer.train_dataset))
    [rewards] = trainer._logs["rewards"].values()
    closing = [token for text, token in tokenizer.get_vocab().items() if text.startswith("}")]
    wanted = []
    for number, (row, text) in enumerate(zip(rollout_rows(trainer.train_dataset), RESPONSES, strict=True)):
        response = tokenizer(text, add_special_tokens=False)["input_ids"]
        merged = "{-" in text
        assert ("{-" in tokenizer.convert_ids_to_tokens(response)) == merged, "what the case rests on"
        behind = "" if merged else "{"
        reasoning = tokenizer(text[: text.index("{")] + behind, add_special_tokens=False)["input_ids"]
        assert reasoning == response[: len(reasoning)]
        assert batch["tool_mask"][number].sum() == len(reasoning), text
        assert batch["tool_mask"][number, : len(reasoning)].all()
        answer = tokenizer(("{" if merged else "") + row["answer"], add_special_tokens=False)["input_ids"]
        context = render_prompt(tokenizer, row["prompt"]) + reasoning
        with torch.no_grad():
            after = trainer.model(input_ids=torch.tensor([context + answer])).logits[0, -1].double().log_softmax(-1)
        reward = full_logprobs(trainer.model, context, answer).sum() + after[closing].logsumexp(0)
        wanted.append(reward.item())
    assert list(rewards) == pytest.approx(wanted, rel=1e-5)
    for own in range(GROUP):
        assert abs(wanted[own] - wanted[GROUP + own]) > 0.1, "-5 is not scored as 5"


def test_lora_trains_the_adapter_against_the_base_model(
    make_trainer: Callable[..., GeneralThinkerTrainer], tmp_path: Path
) -> None:
    from thinker_common.models.adapters import add_lora
    from thinker_common.training.sections import LoraSettings

    settings = Settings(training={"num_generations": GROUP, "per_device_train_batch_size": 8, "beta": 0.1})
    policy = add_lora(load_policy("embedded"), LoraSettings(r=4, alpha=8.0))
    trainer = GeneralThinkerTrainer(
        model=policy,
        args=training_arguments(settings, tmp_path / "lora"),
        method=settings.method,
        train_dataset=training_rows(PROBLEMS, settings.method, seed=0),
        processing_class=load_tokenizer("embedded"),
    )
    rollout = make_trainer(dtype=torch.float32)._sample(rollout_rows(trainer.train_dataset))
    assert trainer.ref_model is None
    with torch.no_grad():
        everything_BT = whole_mask(rollout)
        untouched = trainer._response_logprobs(trainer.model, rollout, everything_BT)
        for name, parameter in trainer.model.named_parameters():
            if "lora_B.default" in name:
                parameter += 0.05
        reference = trainer._reference_logprobs(trainer.model, rollout, everything_BT)
        torch.testing.assert_close(reference, untouched, rtol=0, atol=1e-5)
        assert (trainer._response_logprobs(trainer.model, rollout, everything_BT) - reference).abs().max() > 1e-3


def test_the_exported_folder_is_the_trained_adapter(tmp_path: Path) -> None:
    from thinker_common.models.adapters import add_lora
    from thinker_common.training.export import export_trained
    from thinker_common.training.sections import LoraSettings

    settings = Settings(
        training={"num_generations": GROUP, "per_device_train_batch_size": 8, "max_steps": 3, "learning_rate": 1e-2}
    )
    tokenizer = load_tokenizer("embedded")
    trainer = GeneralThinkerTrainer(
        model=add_lora(load_policy("embedded"), LoraSettings(r=4, alpha=8.0)),
        args=training_arguments(settings, tmp_path / "run"),
        method=settings.method,
        train_dataset=training_rows(chains.generate("train", 8), settings.method, seed=0),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.model.eval()
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"][:12] for text in RESPONSES[1::6]])
    with torch.no_grad():
        adapted = trainer.model(input_ids=ids).logits
        with trainer.model.disable_adapter():
            base = trainer.model(input_ids=ids).logits
        export_trained(
            trainer.model_wrapped, tokenizer, tmp_path / "model", best=None, rebuild=lambda: load_policy("embedded")
        )
        merged = load_policy(tmp_path / "model", dtype="float32")(input_ids=ids).logits
    assert (adapted - base).abs().max() > 1e-2, "the adapter was trained"
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "training",
    [
        {"num_train_epochs": 3},
        {"gradient_accumulation_steps": 3, "num_train_epochs": 2},
        {"steps_per_generation": 2, "num_iterations": 2},
        {"max_steps": 7},
    ],
)
def test_planned_steps_are_those_that_training_takes(
    make_trainer: Callable[..., GeneralThinkerTrainer], tmp_path: Path, training: dict[str, Any]
) -> None:
    settings = Settings(training={"num_generations": 2, "per_device_train_batch_size": 4, **training})
    rows = training_rows(chains.generate("train", 27), settings.method, seed=0)
    arguments = training_arguments(settings, tmp_path)
    trainer = GeneralThinkerTrainer(
        load_policy("embedded"), arguments, settings.method, rows, load_tokenizer("embedded")
    )
    trainer.training_step = lambda *_: torch.zeros(())  # only the counting is of interest
    trainer.train()
    assert trainer.state.global_step == planned_steps(arguments, len(rows))


def test_passes_without_gradient_hold_little_padding(
    make_trainer: Callable[..., GeneralThinkerTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long prompts with short responses and the reverse: at most a tenth of a pass is padding."""
    trainer = make_trainer()
    lengths = [(150, 10), (10, 150), (80, 85), (30, 120), (120, 40), (20, 20), (60, 5), (5, 60), (100, 90), (90, 100)]
    random = torch.Generator().manual_seed(0)
    rollout = Rollout(
        *([torch.randint(3, 900, (part[i],), generator=random).tolist() for part in lengths] for i in (0, 1)), [], []
    )
    padded: list[int] = []
    embeddings = trainer.model.get_input_embeddings()
    embeddings.register_forward_pre_hook(lambda _, arguments: padded.append(arguments[0].numel()))
    with torch.no_grad():
        logprobs_BT = trainer._response_logprobs(trainer.model, rollout, whole_mask(rollout))
    real = sum(prompt + response - 1 for prompt, response in lengths)  # nothing is predicted from a last token
    assert real <= sum(padded) <= real / 0.9
    for row, (_, response) in enumerate(lengths):
        alone = full_logprobs(trainer.model, rollout.prompts[row], rollout.responses[row])
        torch.testing.assert_close(logprobs_BT[row, :response].double(), alone, rtol=0, atol=1e-5)
        assert (logprobs_BT[row, response:] == 0).all()


@pytest.mark.parametrize("method", [{}, {"credit_base": "current"}, {"credit": "none"}])
def test_what_a_group_shares_is_read_once(
    make_trainer: Callable[..., GeneralThinkerTrainer], method: dict[str, Any]
) -> None:
    """x, x+ and, where the policy is read without the answer, the reasoning that the reward was scored behind."""
    trainer = make_trainer(**method)
    rows = rollout_rows(trainer.train_dataset)
    trainer._generate_and_score_completions(rows)  # verifies the models, once
    rollout = trainer._sample(rows)
    read: dict[str, list[int]] = {"policy": [], "reference": []}
    for name, model in (("policy", trainer.model), ("reference", trainer.ref_model)):
        embeddings = model.get_input_embeddings()
        embeddings.register_forward_pre_hook(lambda _, given, name=name: read[name].append(given[0].numel()))
    trainer._generate_and_score_completions(rows)

    def positions(sequences: list[list[int]]) -> int:
        return len({tuple(ids[:end]) for ids in sequences for end in range(1, len(ids) + 1)})

    def wanted(of: Rollout, mask_BT: torch.Tensor) -> list[list[int]]:
        lengths = mask_BT.sum(dim=1).tolist()
        return [
            [*prompt, *response[: length - 1]]
            for prompt, response, length in zip(of.prompts, of.responses, lengths, strict=True)
            if length
        ]

    items = [item for item in trainer._scoring_items(rollout, rows) if item is not None]
    scored = [[*row.scored.context_ids, *row.scored.ids[:-1]] for row in trainer.scorer._rows(items)]
    reasoning_BT = reasoning_mask(rollout)
    needed = positions(scored)
    if method.get("credit_base") == "current":
        needed = positions(scored + wanted(rollout, reasoning_BT))
    if method.get("credit") != "none":
        needed += positions(wanted(trainer._conditioned(rollout, rows), reasoning_BT))
    apart = sum(map(len, scored)) + sum(map(len, wanted(trainer._conditioned(rollout, rows), reasoning_BT)))
    assert needed <= sum(read["policy"]) <= 1.1 * needed
    if method == {}:
        assert sum(read["policy"]) < 0.65 * apart
    covered = positions(wanted(rollout, loss_mask(rollout, reward="likelihood", malformed=trainer.method.malformed)))
    assert covered <= sum(read["reference"]) <= 1.1 * covered


@pytest.mark.parametrize("reward", ["likelihood", "probability"])
def test_the_head_never_sees_more_than_a_chunk_and_no_prompt(
    make_trainer: Callable[..., GeneralThinkerTrainer], monkeypatch: pytest.MonkeyPatch, reward: str
) -> None:
    """Nothing of size (B, T, V), in any pass of a step: scores, reference, conditioned policy, update."""
    monkeypatch.setattr(
        f"{__name__}.RESPONSES", [f"{n}+3=15. " + "12+3=15. " * 20 + "So \\boxed{15}<|end|>" for n in range(8)]
    )
    trainer = make_trainer(dtype=torch.float32, reward=reward, credit="controlled", credit_base="current")
    rows = rollout_rows(trainer.train_dataset)
    trainer._generate_and_score_completions(rows)  # verifies the models, once
    heads = [model.lm_head.weight for model in (trainer.model, trainer.ref_model)]
    linear, seen = torch.nn.functional.linear, []

    def spy(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if any(weight is head for head in heads):
            seen.append(states.shape[:-1].numel())
        return linear(states, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    batch = trainer._generate_and_score_completions(rows)
    trainer.current_gradient_accumulation_steps = 1  # the training loop sets it
    covered = int(batch["tool_mask"].sum())
    assert covered > 2 * CHUNK_TOKENS, "several chunks"
    answers = 8 * 8  # at most so many tokens, a set of which may stand for the last
    of_rollout = len(seen)
    # The reward's pass has the responses as well, then the reference, then the conditioned policy.
    assert 3 * covered <= sum(seen) <= 3 * covered + answers
    trainer._compute_loss(trainer.model, batch)
    assert covered <= sum(seen[of_rollout:]) <= covered + answers
    assert max(seen) <= CHUNK_TOKENS


def test_shuffled_credit_is_the_same_credit_at_other_tokens(make_trainer: Callable[..., GeneralThinkerTrainer]) -> None:
    weights = {}
    for control in ("none", "shuffle", "reverse"):
        trainer = make_trainer(credit="controlled", credit_strength=0.5, credit_control=control)
        trainer._generate_and_score_completions(rollout_rows(trainer.train_dataset))
        weights[control] = [torch.tensor(of_response) for _, of_response in trainer.last_credit]
    moved = 0
    for plain, shuffled, reverse in zip(weights["none"], weights["shuffle"], weights["reverse"], strict=True):
        torch.testing.assert_close(shuffled.sort().values, plain.sort().values)
        torch.testing.assert_close(reverse, -plain)
        moved += int((shuffled - plain).abs().gt(1e-6).sum())
    assert moved > 20


def test_rlsd_mixes_its_credit_in_less_and_less(make_trainer: Callable[..., GeneralThinkerTrainer]) -> None:
    """A_t - A is l times what it is at l = 1: half of that at the first step, a quarter at the 25th, nothing at the 50th."""
    plain = make_trainer(credit="none")
    plain_BT = plain._generate_and_score_completions(rollout_rows(plain.train_dataset))["advantages"]
    trainer = make_trainer(credit="rlsd")
    moved = []
    for step in (0, 25, 50):
        trainer.state.global_step = step
        batch = trainer._generate_and_score_completions(rollout_rows(trainer.train_dataset))
        moved.append(batch["advantages"] - plain_BT)
    assert moved[0].abs().max() > 0.01
    torch.testing.assert_close(moved[1], moved[0] / 2)
    assert moved[2].abs().max() < 1e-9
