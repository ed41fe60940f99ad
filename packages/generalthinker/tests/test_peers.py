"""The peers in the same trainer: equality with TRL's GRPO, with a brute-force Likelihood-RL, and VeriFree's second term.

All on the same replayed responses of the embedded model, in float64.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from generalthinker.arguments import training_arguments
from generalthinker.config import MethodSettings, Settings
from generalthinker.data import graded_problems, training_rows
from generalthinker.rollout import whole_mask
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common.benchmarks import chains
from thinker_common.evaluation.grading import grade
from thinker_common.likelihood.scorer import ScoringItem
from thinker_common.models.load import load_policy, load_tokenizer

GROUP = 4
PROBLEMS = chains.generate("train", 2, seed=3)
GOLD = [problem.answer for problem in PROBLEMS]
# One group of each problem: right and wrong ones, one without a box and one cut off.
RESPONSES = [
    f"12+3=15. So \\boxed{{{GOLD[0]}}}<|end|>",
    "1+1=2. The answer is \\boxed{7}.<|end|>",
    "It is<|end|>",
    "2+2=4. 4+4=8. So \\boxed{8",
    "9-4=5. So \\boxed{5}<|end|>",
    f"7+3=10. So \\boxed{{{GOLD[1]}}}<|end|>",
    "It must be \\boxed{}<|end|>",
    "(7+3)*2=20. 20/4=5. So \\boxed{11}.<|end|>",
]
TRAINING = {"num_generations": GROUP, "per_device_train_batch_size": 8, "beta": 0.1}


def disturb(model: Any) -> None:
    """A reference that differs from the policy, so that the KL term is not zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def replay(trainer: Any, prompts: list[list[int]]) -> Callable[..., tuple]:
    ids = [trainer.processing_class(text, add_special_tokens=False)["input_ids"] for text in RESPONSES]
    return lambda *_: (prompts, ids, None, RESPONSES, None, {}, None, None)


@pytest.fixture
def make_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GeneralThinkerTrainer]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def make(**method: Any) -> GeneralThinkerTrainer:
        settings = Settings(method=MethodSettings(**method), training=dict(TRAINING))
        rows = training_rows(PROBLEMS, settings.method, seed=0)
        trainer = GeneralThinkerTrainer(
            model=load_policy("embedded").to(torch.float64),
            args=training_arguments(settings, tmp_path),
            method=settings.method,
            train_dataset=rows,
            processing_class=load_tokenizer("embedded"),
            problems=graded_problems(PROBLEMS, rows),
        )
        disturb(trainer.ref_model)
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        prompts, *_ = trainer._tokenize_prompts([row["prompt"] for row in inputs(trainer)])
        monkeypatch.setattr(trainer, "_generate", replay(trainer, prompts))
        return trainer

    return make


def inputs(trainer: GeneralThinkerTrainer) -> list[dict[str, Any]]:
    return [trainer.train_dataset[index] for index in (0, 1) for _ in range(GROUP)]


def gradient(trainer: Any, loss: Tensor) -> Tensor:
    trainer.model.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])


def test_binary_without_credit_is_trls_grpo(
    make_trainer: Callable[..., GeneralThinkerTrainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = make_trainer(reward="binary", credit="none")
    batch = ours._generate_and_score_completions(inputs(ours))
    our_gradient = gradient(ours, ours._compute_loss(ours.model, batch))

    def verifier(completions: list[str], id: list[str], **_: Any) -> list[float]:
        by_id = {problem.id: problem for problem in PROBLEMS}
        return [float(grade(by_id[i], text).correct) for i, text in zip(id, completions, strict=True)]

    monkeypatch.setattr(GRPOTrainer, "_send_telemetry", lambda self: None)
    theirs = GRPOTrainer(
        model=load_policy("embedded").to(torch.float64),
        reward_funcs=verifier,
        args=GRPOConfig(
            output_dir=str(tmp_path / "trl"),
            use_bias_correction_kl=False,
            disable_dropout=True,
            report_to="none",
            use_cpu=True,
            bf16=False,
            loss_type="grpo",
            max_completion_length=ours.args.max_completion_length,
            **TRAINING,
        ),
        train_dataset=ours.train_dataset,
        processing_class=load_tokenizer("embedded"),
    )
    disturb(theirs.ref_model)
    theirs.model.train()
    theirs.current_gradient_accumulation_steps = 1
    prompts, *_ = ours._tokenize_prompts([row["prompt"] for row in inputs(ours)])
    monkeypatch.setattr(theirs, "_generate", replay(theirs, prompts))
    their_batch = theirs._generate_and_score_completions(inputs(ours))
    real = batch["completion_mask"].bool()
    expanded = their_batch["advantages"].unsqueeze(1).expand_as(real)
    torch.testing.assert_close(batch["advantages"][real], expanded[real].to(batch["advantages"].dtype))
    assert batch["advantages"][0, 0] > 0 > batch["advantages"][1, 0]
    their_gradient = gradient(theirs, theirs._compute_loss(theirs.model, their_batch))
    # Llama's norms and rotary tables are in float32 whatever the weights are, and the two pad differently.
    assert (our_gradient - their_gradient).norm() <= 1e-5 * their_gradient.norm()
    assert their_gradient.norm() > 0


def brute_force_likelihood_rl(
    policy: Any, reference: Any, tokenizer: Any, rows: list[dict[str, Any]], beta: float
) -> Tensor:
    """Likelihood-RL on one rollout, one response at a time with full logits: the loss whose gradient is the update."""
    closing = [token for text, token in tokenizer.get_vocab().items() if text.startswith("}")]

    def logprobs(model: Any, ids: list[int]) -> Tensor:
        return model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)

    rewards, kept = [], []
    for row, text in zip(rows, RESPONSES, strict=True):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], add_generation_prompt=True
        )["input_ids"]
        response = tokenizer(text, add_special_tokens=False)["input_ids"]
        body, box, rest = text.rpartition("\\boxed{")
        ended = text.endswith("<|end|>")
        well_formed = ended and bool(box) and bool(body.strip()) and bool(rest.partition("}")[0])
        reward, covered = -30.0, [] if not ended else response
        if well_formed:
            reasoning = next(response[:n] for n in range(len(response)) if tokenizer.decode(response[:n]) == body + box)
            answer = tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logp = logprobs(policy, [*prompt, *reasoning, *answer, closing[0]])
            start = len(prompt) + len(reasoning) - 1
            reward = sum(logp[start + i, token].item() for i, token in enumerate(answer))
            reward += logp[-1, closing].logsumexp(0).item()
            covered = reasoning
        rewards.append(reward)
        kept.append((prompt, covered))
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(rows), GROUP):
        group = torch.tensor(rewards[start : start + GROUP], dtype=torch.float64)
        for (prompt, covered), reward in zip(kept[start : start + GROUP], group, strict=True):
            if not covered:
                continue
            advantage = (reward - group.mean()) / (group.std() + 1e-4)
            index = (torch.arange(len(covered)) + len(prompt) - 1, torch.tensor(covered))
            logp = logprobs(policy, prompt + covered)[index]
            with torch.no_grad():
                ref = logprobs(reference, prompt + covered)[index]
            k3 = (ref - logp).exp() - (ref - logp) - 1
            total = total + (-(logp - logp.detach()).exp() * advantage + beta * k3).mean() / len(rows)
    return total


def test_likelihood_rl_is_the_brute_force(make_trainer: Callable[..., GeneralThinkerTrainer]) -> None:
    trainer = make_trainer(reward="likelihood", credit="none")
    rows = inputs(trainer)
    batch = trainer._generate_and_score_completions(rows)
    loss = trainer._compute_loss(trainer.model, batch)
    ours = gradient(trainer, loss)
    brute = brute_force_likelihood_rl(trainer.model, trainer.ref_model, trainer.processing_class, rows, beta=0.1)
    theirs = gradient(trainer, brute)
    assert loss.item() == pytest.approx(brute.item(), abs=1e-7)
    assert (ours - theirs).norm() <= 1e-6 * theirs.norm()
    assert theirs.norm() > 0


def test_mean_probability_compares_with_the_box_opened_at_once(
    make_trainer: Callable[..., GeneralThinkerTrainer],
) -> None:
    trainer = make_trainer(reward="mean_probability", credit="none", closing="token")
    rows = inputs(trainer)
    rollout = trainer._sample(rows)
    with torch.no_grad():
        scores = trainer._score_answers(trainer._scoring_items(rollout, rows))
        gains = trainer.reward_scores(rollout, rows, scores)
    tokenizer, model = trainer.processing_class, trainer.model

    def mean_probability(context: list[int], answer: str) -> float:
        ids = tokenizer(answer + "}", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([[*context, *ids]])).logits[0].double().log_softmax(-1)
        return sum(logp[len(context) - 1 + i, token].exp().item() for i, token in enumerate(ids)) / len(ids)

    box = tokenizer("\\boxed{", add_special_tokens=False)["input_ids"]
    for index in (0, 1, 4, 5, 7):
        answer = rows[index]["answer"]
        with_reasoning = mean_probability([*rollout.prompts[index], *rollout.reasoning_ids(index)], answer)
        without = mean_probability([*rollout.prompts[index], *box], answer)
        assert gains[index].item() == pytest.approx(max(0.0, with_reasoning - without), abs=1e-6), RESPONSES[index]
    assert gains[[2, 3, 6]].tolist() == [0.0, 0.0, 0.0]


def test_verifree_adds_the_weighted_likelihood_of_the_answer(
    make_trainer: Callable[..., GeneralThinkerTrainer],
) -> None:
    trainer = make_trainer(reward="probability", credit="none", closing="token")
    batch = trainer._generate_and_score_completions(inputs(trainer))
    weights = batch["answer_weights"]
    scored = [index for index, item in enumerate(batch["answer_items"]) if item is not None]
    assert scored == [0, 1, 4, 5, 7]
    assert (weights[scored] > 0).all() and weights[[2, 3, 6]].tolist() == [0.0, 0.0, 0.0]
    whole = gradient(trainer, trainer._compute_loss(trainer.model, batch))
    surrogate = gradient(
        trainer,
        trainer._compute_loss(trainer.model, {name: value for name, value in batch.items() if "answer" not in name}),
    )
    # The second term by itself, one answer at a time with full logits.
    term = torch.zeros((), dtype=torch.float64)
    for index in scored:
        item = ScoringItem(*batch["answer_items"][index])
        context = [*item.prompt, *item.reasoning]
        ids = trainer.processing_class(item.answer + "}", add_special_tokens=False)["input_ids"]
        logp = trainer.model(input_ids=torch.tensor([[*context, *ids]])).logits[0].log_softmax(-1)
        term = (
            term - weights[index].double() * sum(logp[len(context) - 1 + i, token] for i, token in enumerate(ids)) / 8
        )
    expected = gradient(trainer, term)
    assert ((whole - surrogate) - expected).norm() <= 1e-6 * expected.norm()
    leave_one_out = [(weights[i] - (weights[:4].sum() - weights[i]) / 3).item() for i in range(4)]
    covered = batch["tool_mask"].bool()
    assert batch["advantages"][0][covered[0]].tolist() == pytest.approx([leave_one_out[0]] * int(covered[0].sum()))


@pytest.mark.parametrize("credit", ["additive", "clipped", "direction_preserving", "projection", "rlsd"])
@pytest.mark.parametrize("control", ["none", "shuffle", "reverse"])
def test_every_rule_trains(make_trainer: Callable[..., GeneralThinkerTrainer], credit: str, control: str) -> None:
    trainer = make_trainer(credit=credit, credit_control=control, credit_strength=0.5, entropy_gate=0.5)
    batch = trainer._generate_and_score_completions(inputs(trainer))
    plain = make_trainer(credit="none")._generate_and_score_completions(inputs(trainer))
    changed = batch["advantages"] != plain["advantages"]
    gated = changed.sum() / plain["tool_mask"][[0, 1, 4, 5, 7]].sum()
    assert 0 < gated <= 0.5 + 0.05, "half of the reasoning tokens, those of highest entropy"
    assert not changed[[2, 3, 6]].any(), "responses without a box keep A on all tokens"
    assert gradient(trainer, trainer._compute_loss(trainer.model, batch)).norm() > 0


def test_the_current_policy_as_base(make_trainer: Callable[..., GeneralThinkerTrainer]) -> None:
    """With the current policy as base and the same prompts there would be no evidence at all; with x+ there is."""
    trainer = make_trainer(credit="controlled", credit_base="current")
    rows = inputs(trainer)
    trainer._generate_and_score_completions(rows)
    rollout = trainer._sample(rows)
    with torch.no_grad():
        everything_BT = whole_mask(rollout)
        conditioned = trainer._response_logprobs(trainer.model, trainer._conditioned(rollout, rows), everything_BT)
        current = trainer._response_logprobs(trainer.model, rollout, everything_BT)
    lengths = [split.reasoning_length for split in rollout.splits]
    expected = torch.cat([(conditioned - current)[i, : lengths[i]] for i in (0, 1, 4, 5, 7)])
    assert trainer._metrics["train"]["credit/log_ratio_mean"][0] == pytest.approx(expected.mean().item(), abs=1e-6)
