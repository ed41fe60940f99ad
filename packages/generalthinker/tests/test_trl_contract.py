"""Every private name of TRL that `trainer.py` overrides, calls or reads. A TRL upgrade fails here and nowhere else."""

import ast
import inspect
import re
from functools import cache
from importlib.resources import files

import pytest
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.models.utils import disable_gradient_checkpointing

from generalthinker.arguments import samples_itself
from generalthinker.trainer import SAMPLING_MODES, GeneralThinkerTrainer
from thinker_common.training.dependable import DependableMixin

OVERRIDDEN = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_tokenize_prompts": ["self", "prompts"],
    "_generate_single_turn": [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    "_send_telemetry": ["self"],
    "_compute_loss": ["self", "model", "inputs"],
}
# What DependableMixin stands in front of: TRL's own versions, which it calls with these in their places.
BEHIND_THE_MIXIN = {
    "_prepare_inputs": ["self", "generation_batch"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "_save_checkpoint": ["self", "model", "trial"],
    "log": ["self", "logs", "start_time"],
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
    "_metrics", "_logs", "_tokenizer", "_entropy_bonus_enabled", "_buffered_inputs", "_step", "num_generations",
    "eos_token_ids", "ref_model", "beta", "temperature", "num_iterations", "use_vllm", "aux_loss_enabled",
    "vllm_importance_sampling_correction", "vllm_importance_sampling_mode", "vllm_importance_sampling_clip_min",
    "vllm_importance_sampling_clip_max", "max_completion_length", "top_p", "top_k",
)  # fmt: skip
# Of transformers' Trainer, and documented there but for the one that its training loop sets before every step.
OF_TRANSFORMERS = {
    "args", "model", "model_wrapped", "state", "accelerator", "processing_class", "current_gradient_accumulation_steps",
}  # fmt: skip
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


@cache  # looking for the end of so long a class takes a second
def source_of(cls: type) -> str:
    return inspect.getsource(cls)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_signatures_of_overridden_methods(name: str) -> None:
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == OVERRIDDEN[name]


@pytest.mark.parametrize("name", BEHIND_THE_MIXIN)
def test_signatures_behind_the_mixin(name: str) -> None:
    assert list(inspect.signature(vars(GRPOTrainer)[name]).parameters) == BEHIND_THE_MIXIN[name]


def test_the_lists_of_methods_are_complete() -> None:
    def of_trl(cls: type) -> set[str]:
        """The methods of the class that TRL's trainer, or what it derives from, has as well."""
        return {name for name, value in vars(cls).items() if inspect.isfunction(value) and hasattr(GRPOTrainer, name)}

    own = of_trl(GeneralThinkerTrainer) - {"__init__"}  # whose arguments are public, and passed by name
    assert own == {*OVERRIDDEN, "_get_per_token_logps_and_entropies"}
    mixed = {name for name in of_trl(DependableMixin) - {"__init__"} if name in vars(GRPOTrainer)}
    assert mixed == set(BEHIND_THE_MIXIN), "the others are transformers' alone: see test_dependable_trl.py"


def test_the_list_of_attributes_is_complete() -> None:
    """All that trainer.py takes from `self` is its own, or stands in a list of this file."""
    tree = ast.parse(files("generalthinker").joinpath("trainer.py").read_text(encoding="utf-8"))
    on_self = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    ]
    trl = source_of(GRPOTrainer) + source_of(Trainer)
    assigned = {node.attr for node in on_self if isinstance(node.ctx, ast.Store)}
    own = {*vars(GeneralThinkerTrainer), *(name for name in assigned if not re.search(rf"self\.{name}\b", trl))}
    assert {node.attr for node in on_self} - own == {*ATTRIBUTES, *OF_TRANSFORMERS, "_generate"}


@pytest.mark.parametrize("name", sorted(OF_TRANSFORMERS))
def test_attributes_of_transformers(name: str) -> None:
    assert re.search(rf"self\.{name}(, self\.\w+)* = ", source_of(Trainer)), name


def test_the_rollout_that_a_checkpoint_holds_is_the_one_that_is_trained_on_next() -> None:
    """`rank_state` saves `_buffered_inputs` and `_step` in the middle of a round, and a resumed run puts them back."""
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "if self._step % generate_every == 0 or self._buffered_inputs is None" in source
    assert "self._buffered_inputs = [" in source
    assert "inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]" in source
    assert "self._step += 1" in inspect.getsource(GRPOTrainer.training_step)


def test_log_probabilities() -> None:
    parameters = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert parameters[: len(LOGPROBS)] == LOGPROBS
    source = inspect.getsource(GRPOTrainer._get_per_token_logps_and_entropies)
    assert "return logps, entropies, aux_loss" in source


def test_generate() -> None:
    assert list(inspect.signature(GRPOTrainer._generate).parameters) == ["self", "prompts"]
    assert GENERATE_RETURN in inspect.getsource(GRPOTrainer._generate)


def test_what_trl_samples_by_is_known() -> None:
    """`arguments.samples_itself` asks for every setting that TRL's sampling without an engine has beyond our own."""
    construction = inspect.getsource(GRPOTrainer.__init__)
    [settings] = re.findall(r"generation_kwargs = \{\n(.*?)\n +\}", construction, flags=re.DOTALL)
    names = set(re.findall(r'"(\w+)":', settings))
    of_the_generator = {
        "max_new_tokens",
        "temperature",
        "top_p",
        "top_k",
        "eos_token_id",
        "pad_token_id",
        "bos_token_id",
    }
    asked_for = {"min_p", "repetition_penalty", "cache_implementation"}
    assert names == of_the_generator | asked_for | {"do_sample"}
    assert "generation_kwargs.update(args.generation_kwargs)" in construction
    ours = inspect.getsource(samples_itself)
    for name in (*asked_for, "generation_kwargs", "use_vllm", "use_transformers_continuous_batching"):
        assert f"arguments.{name}" in ours, name
    generate = inspect.getsource(GRPOTrainer._generate)
    assert "prompt_ids, images, multimodal_fields = self._tokenize_prompts(prompts)" in generate
    assert "completion_ids, logprobs = self._generate_single_turn(" in generate
    assert "return completion_ids, logprobs" in inspect.getsource(GRPOTrainer._generate_single_turn)


def test_the_loss_reads_the_batch_as_we_write_it() -> None:
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert "self.current_gradient_accumulation_steps" in source, "our second term is divided as TRL's loss is"
    for snippet in BATCH_KEYS:
        assert snippet in source, snippet


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes(name: str) -> None:
    assert re.search(rf"self\.{name}\b", source_of(GRPOTrainer)), name
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
    private = {name for name in (*OVERRIDDEN, *ATTRIBUTES) if name.startswith("_")}
    ours = {*private, "_get_per_token_logps_and_entropies", "_generate"}
    for entry in files("generalthinker").iterdir():
        if entry.name.endswith(".py") and entry.name != "trainer.py":
            text = entry.read_text(encoding="utf-8")
            used = {name for name in ours if re.search(rf"(?<!\bself)\.{name}\b", text)}
            assert not used, f"{entry.name} uses {used}"


def test_defaults_that_the_method_relies_on() -> None:
    fields = GRPOConfig.__dataclass_fields__
    assert fields["importance_sampling_level"].default == "token"
    assert fields["epsilon"].default == 0.2
    assert "use_bias_correction_kl" in fields, "set to False in config.py"
    assert fields["remove_unused_columns"].default is False
    assert fields["shuffle_dataset"].default is True
