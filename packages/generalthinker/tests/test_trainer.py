"""The trainer on replayed responses, against computations written out with full logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from generalthinker.arguments import planned_steps, training_arguments
from generalthinker.callbacks import status
from generalthinker.config import MethodSettings, Settings
from generalthinker.data import training_rows
from generalthinker.rollout import Rollout, loss_mask, reasoning_mask, whole_mask
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common.benchmarks import chains
from thinker_common.errors import UserError
from thinker_common.likelihood.logprobs import token_logprobs
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


def expected(trainer: GeneralThinkerTrainer, *, credit: str, strength: float, clip: float) -> list[dict[str, Any]]:
    """Everything the batch should hold, response by response, in plain Python."""
    tokenizer = trainer.processing_class
    rows = rollout_rows(trainer.train_dataset)
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
            item["advantages"] = torch.full((item["covered"],), advantage, dtype=torch.float64)
            if credit == "controlled" and item["reasoning"]:
                s = item["s"][: item["reasoning"]]
                d = (s - s.mean()) / (s.std(unbiased=False) + 1e-6)
                d = d.clamp(-clip, clip)
                d = d - d.mean()
                item["advantages"] = advantage + strength * abs(advantage) * d / max(1.0, d.abs().max().item())
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
    noise = 0.05 * torch.randn(batch["advantages"].shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        old = token_logprobs(
            trainer.model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            keep=batch["completion_ids"].shape[1],
        )
    batch["old_per_token_logps"] = old + noise  # ratios differ from 1, some outside the clip range
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


def test_a_rollout_that_does_not_fit_into_memory_says_what_to_lower(
    make_trainer: Callable[..., GeneralThinkerTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(prompts: list[str]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    trainer = make_trainer(dtype=torch.float32, training={"max_steps": 1})
    monkeypatch.setattr(trainer, "_generate", too_much)
    with pytest.raises(
        UserError, match=r"rollout of 8 responses: lower generation\.max_new_tokens \(now \d+\), training"
    ):
        trainer.train()


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
    covered = positions(wanted(rollout, loss_mask(rollout, trainer.method.malformed)))
    assert covered <= sum(read["reference"]) <= 1.1 * covered
