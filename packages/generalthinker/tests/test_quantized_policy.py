"""QLoRA: an adapter in float32 on base weights of 4 bits, trained, gone on with, exported and evaluated."""

import json
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from typer.testing import CliRunner

from generalthinker.arguments import training_arguments
from generalthinker.cli import app
from generalthinker.config import Settings
from generalthinker.data import training_rows
from generalthinker.policy import fresh_policy
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common.benchmarks import chains
from thinker_common.errors import SettingsError
from thinker_common.evaluation.evaluate import model_fingerprint
from thinker_common.likelihood.scorer import AnswerScorer, ScoringItem
from thinker_common.models.adapters import trained_weights
from thinker_common.models.load import load_policy, load_tokenizer
from thinker_common.training.export import export_trained
from thinker_common.training.sections import GenerationSettings, LoraSettings, ModelSettings

MODEL = ModelSettings(dtype="float32", lora=LoraSettings(r=4, alpha=8.0), quantization="4bit")
TOKENIZER = load_tokenizer("embedded")
ITEMS = [
    ScoringItem(TOKENIZER(question)["input_ids"], TOKENIZER("So ")["input_ids"], answer)
    for question, answer in (("2 + 3 =", "5"), ("(7 + 3) * 2 =", "20"))
]


def make_trainer(folder: Path, policy: Any = None) -> GeneralThinkerTrainer:
    settings = Settings(
        model=MODEL,
        generation=GenerationSettings(max_new_tokens=12),
        training={
            "num_generations": 4, "per_device_train_batch_size": 8, "max_steps": 2, "learning_rate": 1e-2, "beta": 0.1,
            "warmup_steps": 0, "save_steps": 1, "lr_scheduler_type": "constant",
        },
    )  # fmt: skip
    return GeneralThinkerTrainer(
        model=fresh_policy(settings, seed=3) if policy is None else policy,
        args=training_arguments(settings, folder),
        method=settings.method,
        train_dataset=training_rows(chains.generate("train", 8), settings.method, seed=0),
        processing_class=TOKENIZER,
    )


def base_weights(model: Any) -> dict[str, torch.Tensor]:
    """All that is not the adapter's; what has 4 bits as the values that it stands for."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    rounded = {
        name: bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        for name, layer in layers.items()
    }
    others = {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if "lora_" not in name and p.is_floating_point()
    }
    assert len(rounded) == 4 * 7 and others
    return rounded | others


def scores(model: Any) -> list[float]:
    return [score.sum for score in AnswerScorer(model, TOKENIZER).score(ITEMS)]


def test_the_adapter_is_trained_in_float32_and_the_base_not_at_all(tmp_path: Path) -> None:
    policy = fresh_policy(Settings(model=MODEL), seed=3)
    adapter, base, untrained = trained_weights(policy), base_weights(policy), scores(policy)
    trainer = make_trainer(tmp_path / "run", policy)
    beginning = trained_weights(trainer.model)
    assert beginning.keys() == adapter.keys()
    for name, weight in beginning.items():
        assert weight.dtype == torch.float32 and torch.equal(weight, adapter[name]), "TRL rounds it to bfloat16"
    trainer.train()

    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 2 and all(torch.isfinite(torch.tensor(losses)))
    weights = trained_weights(trainer.model)
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert all(not torch.equal(weights[name], adapter[name]) for name in weights if "lora_B" in name)
    assert all(torch.equal(weight, base[name]) for name, weight in base_weights(trainer.model).items())
    trainer.model.eval()
    trained = scores(trainer.model)
    assert trained != pytest.approx(untrained, abs=1e-2)
    with trainer.model.disable_adapter():
        assert scores(trainer.model) == pytest.approx(untrained, abs=1e-5)

    # A checkpoint is a model as well, and a training goes on from it as if it had not stopped.
    checkpoints = tmp_path / "run" / "checkpoints"
    assert scores(load_policy(checkpoints / "checkpoint-2", dtype="float32")) == pytest.approx(trained, abs=1e-5)
    again = make_trainer(tmp_path / "run")
    again.train(resume_from_checkpoint=checkpoints / "checkpoint-1")
    for name, weight in trained_weights(again.model).items():
        torch.testing.assert_close(weight, weights[name], atol=1e-6, rtol=1e-5)

    model = export_trained(
        trainer.model_wrapped, TOKENIZER, tmp_path / "model", best=None, rebuild=lambda: pytest.fail("not sharded")
    )
    assert model is trainer.model
    loaded = load_policy(tmp_path / "model", dtype="float32")
    assert scores(loaded) == pytest.approx(trained, abs=1e-5)
    assert model_fingerprint(loaded) == model_fingerprint(model), "ranks that load it evaluate the same as rank 0"
    assert not (tmp_path / "model" / "ref").exists(), "TRL's copy of the adapter as it began"


def test_a_run_is_evaluated_as_its_folder_is(tmp_path: Path) -> None:
    def invoke(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    settings = [
        "model.quantization=4bit", "model.lora.r=4", "model.dtype=float32", "training.max_steps=2",
        "training.learning_rate=1e-2", "training.warmup_steps=0", "training.per_device_train_batch_size=8",
        "training.num_generations=4", "data.limit=12", "generation.max_new_tokens=12", "evaluation.limit=4",
        "evaluation.max_new_tokens=24", "evaluation.every_steps=1", "evaluation.validation_limit=2",
    ]  # fmt: skip
    planned = invoke("train", "--dry-run", "--output", str(tmp_path / "run"), *settings)
    assert " quantized x 0.516 B" in planned
    invoke("train", "--output", str(tmp_path / "run"), *settings)
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").is_file()
    after = json.loads((tmp_path / "run" / "results.json").read_text())["evaluations"]["after"]["chains"]
    command = [
        "evaluate", str(tmp_path / "run" / "model"), "--benchmark", "chains", "--limit", "4", "--max-new-tokens", "24",
        "--dtype", "float32", "--json",
    ]  # fmt: skip
    found = json.loads(invoke(*command))["benchmarks"]["chains"]
    for name in ("n", "accuracy", "answer_loglik"):
        assert found[name] == pytest.approx(after[name], abs=1e-5), name


def test_vllm_does_not_sample_for_it() -> None:
    with pytest.raises(SettingsError, match=r"model\.quantization = '4bit': expected none with training\.use_vllm"):
        Settings(model=MODEL, training={"use_vllm": True})
