"""Every private name of TRL that `trainer.py` overrides, calls or reads. A TRL upgrade fails here and nowhere else."""

import inspect
import re
from importlib.resources import files

import pytest
from trl import GRPOConfig, GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.models.utils import disable_gradient_checkpointing

from generalthinker.trainer import SAMPLING_MODES

OVERRIDDEN = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_tokenize_prompts": ["self", "prompts"],
    "_send_telemetry": ["self"],
}
# Called by keyword from TRL's loss: our override takes these by name and everything multimodal as **.
LOGPROBS = [
    "self",
    "model",
    "input_ids",
    "attention_mask",
    "logits_to_keep",
    "batch_size",
    "compute_entropy",
    "compute_aux_loss",
]
# The parts of `_generate`'s result that are used, in their places.
GENERATE_RETURN = (
    "return prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, images, tool_images"
)
ATTRIBUTES = (
    "_metrics", "_logs", "_tokenizer", "_entropy_bonus_enabled", "num_generations",
    "eos_token_ids", "ref_model", "beta", "temperature", "num_iterations", "use_vllm",
    "vllm_importance_sampling_correction", "vllm_importance_sampling_mode", "vllm_importance_sampling_clip_min",
    "vllm_importance_sampling_clip_max",
)  # fmt: skip
# What the loss reads from our batch, and how.
BATCH_KEYS = (
    'inputs["prompt_ids"], inputs["prompt_mask"]',
    'inputs["completion_ids"], inputs["completion_mask"]',
    'completion_mask if "tool_mask" not in inputs else completion_mask * inputs["tool_mask"]',
    'inputs["advantages"]',
    'inputs.get("old_per_token_logps")',
    'inputs["ref_per_token_logps"]',
    'inputs["num_items_in_batch"]',
    "if advantages.dim() == 1:",
)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_signatures_of_overridden_methods(name: str) -> None:
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == OVERRIDDEN[name]


def test_log_probabilities() -> None:
    parameters = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert parameters[: len(LOGPROBS)] == LOGPROBS
    source = inspect.getsource(GRPOTrainer._get_per_token_logps_and_entropies)
    assert "return logps, entropies, aux_loss" in source


def test_generate() -> None:
    assert list(inspect.signature(GRPOTrainer._generate).parameters) == ["self", "prompts"]
    assert GENERATE_RETURN in inspect.getsource(GRPOTrainer._generate)


def test_the_loss_reads_the_batch_as_we_write_it() -> None:
    source = inspect.getsource(GRPOTrainer._compute_loss)
    for snippet in BATCH_KEYS:
        assert snippet in source, snippet


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes(name: str) -> None:
    source = inspect.getsource(GRPOTrainer)
    assert re.search(rf"self\.{name}\b", source), name
    assert re.search(rf"self\.{name}\b", files("generalthinker").joinpath("trainer.py").read_text()), "no longer used"


def test_old_log_probabilities_are_left_out_under_the_same_condition() -> None:
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "generate_every = self.args.steps_per_generation * self.num_iterations" in source
    assert "if self.args.gradient_accumulation_steps % generate_every != 0" in source


def test_vllm() -> None:
    """TRL starts the engine, hands it the policy's weights and samples; the ratio in the loss is ours to compute."""
    construction = inspect.signature(VLLMGeneration.__init__).parameters
    assert {"model", "accelerator", "processing_class", "mode", "temperature", "top_p", "top_k", "logprobs"} <= set(
        construction
    )
    assert list(inspect.signature(VLLMGeneration.sync_weights).parameters) == ["self"]
    assert list(inspect.signature(VLLMGeneration.generate).parameters) == [
        "self", "prompts", "images", "num_generations", "profiler",
    ]  # fmt: skip
    turn = inspect.getsource(GRPOTrainer._generate_single_turn)
    assert "if self.state.global_step != self._last_loaded_step" in turn and "sync_weights()" in turn
    assert "_, completion_ids, logprobs, _ = self.vllm_generation.generate(" in turn
    assert "logprobs = [[lp[0] for lp in seq] for seq in logprobs]" in turn
    loss = inspect.getsource(GRPOTrainer._compute_loss)
    assert 'per_token_loss = per_token_loss * inputs["importance_sampling_ratio"]' in loss
    assert 'inputs.get("sampling_per_token_logps", old_per_token_logps)' in loss
    correction = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "(old_per_token_logps - sampling_per_token_logps) * mask" in correction
    assert "torch.nan_to_num(per_token_logps_diff, nan=0.0)" in correction
    assert "self.use_vllm and self.vllm_importance_sampling_correction" in correction
    for mode in SAMPLING_MODES:
        assert f'"{mode}"' in correction, mode


def test_gradient_checkpointing_is_switched_off_by_name() -> None:
    assert list(inspect.signature(disable_gradient_checkpointing).parameters) == [
        "model",
        "gradient_checkpointing_kwargs",
    ]


def test_private_names_stand_in_one_file() -> None:
    ours = {*OVERRIDDEN, "_get_per_token_logps_and_entropies", "_generate", "_metrics", "_logs"}
    for entry in files("generalthinker").iterdir():
        if entry.name.endswith(".py") and entry.name != "trainer.py":
            used = {name for name in ours if re.search(rf"\.{name}\b", entry.read_text(encoding="utf-8"))}
            assert not used, f"{entry.name} uses {used}"


def test_defaults_that_the_method_relies_on() -> None:
    fields = GRPOConfig.__dataclass_fields__
    assert fields["importance_sampling_level"].default == "token"
    assert fields["epsilon"].default == 0.2
    assert "use_bias_correction_kl" in fields, "set to False in config.py"
    assert fields["remove_unused_columns"].default is False
    assert fields["shuffle_dataset"].default is True
