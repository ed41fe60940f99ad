"""Rollouts from vLLM through TRL, with an engine that answers as vLLM's would: no GPU is needed, and none is shown.

Tested is what this package adds: settings that reach TRL's adapter, tokens that are taken as they come, and the ratio
that corrects for an engine whose probabilities are not quite the policy's.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generalthinker._common import SettingsError
from generalthinker.arguments import training_arguments
from generalthinker.config import MethodSettings, Settings
from generalthinker.data import training_rows
from generalthinker.rollout import sampling_ratio
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common.benchmarks import chains
from thinker_common.likelihood.logprobs import token_logprobs
from thinker_common.models.load import load_policy, load_tokenizer

PROBLEMS = chains.generate("train", 1, seed=3)
RESPONSES = [
    "12+3=15. So \\boxed{15}<|end|>",
    "1+1=2. The answer is \\boxed{7}.<|end|>",
    "2+2=4. 4+4=8. So \\boxed{8}<|end|>",
    "9-4=5. So \\boxed{5",
]


class Engine:
    """What TRL's VLLMGeneration is to the trainer. Its log-probabilities are the policy's, less `gap` of a response."""

    made: "Engine"
    gap = (0.0, 0.0, 0.0, 0.0)

    def __init__(self, model: Any, **settings: Any) -> None:
        self.model = model
        self.settings = settings
        self.synchronised = 0
        Engine.made = self

    def sync_weights(self) -> None:
        self.synchronised += 1

    def generate(self, prompts: list[list[int]], images: None, num_generations: int, profiler: Any) -> tuple:
        responses = [load_tokenizer("embedded")(text, add_special_tokens=False)["input_ids"] for text in RESPONSES]
        logprobs = []
        for prompt, response, gap in zip(prompts, responses, self.gap, strict=True):
            ids = torch.tensor([prompt + response])
            with torch.no_grad():
                [own] = token_logprobs(self.model, ids, torch.ones_like(ids), keep=len(response))
            logprobs.append([[value - gap / len(response)] for value in own.tolist()])
        return prompts, responses, logprobs, None


@pytest.fixture
def make_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GeneralThinkerTrainer]:
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", Engine)
    monkeypatch.setattr("generalthinker.trainer.find_spec", lambda name: name)
    monkeypatch.setattr(Engine, "gap", (0.0, 0.0, 0.0, 0.0))

    def make(**training: Any) -> GeneralThinkerTrainer:
        settings = Settings(
            method=MethodSettings(credit="controlled"),
            training={"num_generations": 4, "per_device_train_batch_size": 4, "beta": 0.1, **training},
        )
        trainer = GeneralThinkerTrainer(
            model=load_policy("embedded").to(torch.float64),
            args=training_arguments(settings, tmp_path),
            method=settings.method,
            train_dataset=training_rows(PROBLEMS, settings.method, seed=0),
            processing_class=load_tokenizer("embedded"),
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        if not training.get("use_vllm"):
            responses = Engine(trainer.model).generate([[0]] * 4, None, 4, None)[1]
            monkeypatch.setattr(trainer, "_generate_single_turn", lambda *_, **__: (responses, None))
        return trainer

    return make


def gradient(trainer: GeneralThinkerTrainer) -> tuple[dict[str, Any], Tensor]:
    batch = trainer._generate_and_score_completions([trainer.train_dataset[0]] * 4)
    trainer.model.zero_grad()
    trainer._compute_loss(trainer.model, batch).backward()
    return batch, torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_an_engine_with_the_policys_probabilities_changes_nothing(make_trainer: Callable[..., Any]) -> None:
    _, own = gradient(make_trainer())
    trainer = make_trainer(use_vllm=True, vllm_gpu_memory_utilization=0.25, vllm_tensor_parallel_size=1)
    batch, through_engine = gradient(trainer)
    assert Engine.made.settings["gpu_memory_utilization"] == 0.25
    assert Engine.made.settings["max_completion_length"] == trainer.args.max_completion_length
    assert Engine.made.settings["logprobs"] == 0 and Engine.made.synchronised == 1
    torch.testing.assert_close(
        batch["importance_sampling_ratio"], torch.ones(4, 1), rtol=0, atol=1e-5, check_dtype=False
    )
    assert own.norm() > 0
    assert (through_engine - own).norm() <= 1e-5 * own.norm()
    assert trainer._metrics["train"]["sampling/sampling_logp_difference/max"][0] < 1e-5
    assert trainer._metrics["train"]["truncation_rate"] == [0.25], "the last token says whether a response ended"


def test_a_response_that_the_engine_finds_much_less_likely_has_no_weight(
    make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "gap", (0.3, 9.0, 0.0, 0.0))
    trainer = make_trainer(use_vllm=True)
    batch, whole = gradient(trainer)
    ratio = batch["importance_sampling_ratio"][:, 0]
    covered = batch["tool_mask"].sum(1) / batch["completion_mask"].sum(1)
    assert ratio[0].log().item() == pytest.approx(0.3 * covered[0].item(), abs=1e-5)
    assert ratio[1] == 0, "above vllm_importance_sampling_clip_max"
    assert ratio[2].item() == pytest.approx(1.0, abs=1e-5)
    trainer = make_trainer(use_vllm=True, vllm_importance_sampling_correction=False)
    batch, uncorrected = gradient(trainer)
    assert "importance_sampling_ratio" not in batch
    assert (whole - uncorrected).norm() > 0.1 * uncorrected.norm()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("sequence_mask", [[2.0], [0.0]]),
        ("sequence_truncate", [[2.0], [3.0]]),
        ("token_mask", [[2.0, 1.0, 1.0], [0.0, 0.0, 1.0]]),
        ("token_truncate", [[2.0, 1.0, 1.0], [3.0, 0.5, 1.0]]),
    ],
)
def test_ratio_by_hand(mode: str, expected: list[list[float]]) -> None:
    policy = torch.tensor([[2.0, 1.0, 5.0], [16.0, 0.25, 1.0]]).log()
    sampled = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]).log()
    sampled[0, 1] = torch.nan
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    ratio = sampling_ratio(policy, sampled, mask, mode=mode, low=0.5, high=3.0)
    torch.testing.assert_close(ratio, torch.tensor(expected))
    unbounded = sampling_ratio(policy, sampled, mask, mode="sequence_mask", low=None, high=None)
    torch.testing.assert_close(unbounded, torch.tensor([[2.0], [4.0]]))


def test_without_vllm_the_error_says_what_to_install(tmp_path: Path) -> None:
    settings = Settings(training={"num_generations": 4, "per_device_train_batch_size": 4, "use_vllm": True})
    with pytest.raises(
        SettingsError, match=r'^training.use_vllm = true needs vLLM: pip install "generalthinker\[vllm\]"$'
    ):
        GeneralThinkerTrainer(
            model=load_policy("embedded"),
            args=training_arguments(settings, tmp_path),
            method=settings.method,
            train_dataset=training_rows(PROBLEMS, settings.method, seed=0),
            processing_class=load_tokenizer("embedded"),
        )
