"""Settings of GeneralThinker. The defaults are the paper's where it states one (arXiv 2605.27934, section 5)."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ._common import SettingsError, chat, sections

# Arguments of TRL's GRPOConfig that have another home here, or that would contradict the method.
MANAGED_ARGUMENTS = {
    **sections.REFUSED_ARGUMENTS,
    "output_dir": "--output",
    "max_completion_length": "generation.max_new_tokens",
    "temperature": "generation.temperature",
    "top_p": "generation.top_p",
    "top_k": "generation.top_k",
    "scale_rewards": "method.min_group_std (rewards are always scaled by their group)",
    "mask_truncated_completions": "method.malformed (a truncated response gets no loss, but under reward = binary)",
    "reward_weights": "method.reward (there is one reward)",
    "multi_objective_aggregation": "method.reward (there is one reward)",
    "eval_strategy": "evaluation.every_steps",
    "do_eval": "evaluation.every_steps",
    "gradient_checkpointing": "training.activation_checkpointing, its name in transformers 5",
    "gradient_checkpointing_kwargs": "training.activation_checkpointing_kwargs",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "model_init_kwargs": "the model section",
    "chat_template_path": "model.chat_template",
    "chat_template_kwargs": "model.chat_template",
    "generation_kwargs": "the generation section",
    "remove_unused_columns": "the recipe as it is (the trainer needs all its columns)",
    "pad_to_multiple_of": "the recipe as it is (batches are padded to their longest row)",
    "resume_from_checkpoint": "--resume",
    "deepspeed": "launch.zero, or launch.deepspeed_config",
    "fsdp": "launch.zero=3, which shards in the same way",
    "use_cpu": "CUDA_VISIBLE_DEVICES= (a machine without GPUs needs neither)",
    "ds3_gather_for_generation": "the recipe as it is (rollouts are scored on whole parameters)",
    "push_to_hub": "hf upload on the run's model folder",
    "hub_token": "hf auth login (no key belongs into a file)",
}
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")
# Numbers that GRPOConfig takes at any value, and the least that means something.
LEAST_ARGUMENTS = {
    "beta": 0,
    "learning_rate": 0,
    "num_train_epochs": 0,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "steps_per_generation": 1,
    "num_iterations": 1,
    "logging_steps": 0,
}
TRAINING_DEFAULTS: dict[str, Any] = {
    "beta": 0.001,
    "num_generations": 8,
    "learning_rate": 1e-6,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,  # below 1: a share of the run
    "loss_type": "grpo",
    "epsilon": 0.2,
    "use_bias_correction_kl": False,  # TRL's default multiplies the KL estimate by the ratio; the paper's is plain k3
    "per_device_train_batch_size": 8,
    "disable_dropout": True,  # the answer's likelihood, the conditioned pass and the update must see one policy
    "activation_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 50,
    "save_total_limit": 2,
    "report_to": "none",
}


@dataclass
class MethodSettings:
    """The method's own settings: reward, token credit, prompts."""

    reward: Literal["likelihood", "binary", "mean_probability", "probability"] = "likelihood"
    credit: Literal["none", "additive", "clipped", "direction_preserving", "controlled", "projection", "rlsd"] = (
        "controlled"
    )
    credit_strength: float = 0.1  # lambda: how far a token's advantage may move from the response's, relative to it
    credit_base: Literal["reference", "current"] | None = None  # pi_base; null: current for projection, rlsd
    credit_control: Literal["none", "shuffle", "reverse"] = "none"  # controls: the credit at random tokens, or negated
    token_clip: float = 2.0  # eps_tok, in standard deviations of the response's own log-ratios
    entropy_gate: float | None = None  # modulate only this share of the reasoning tokens, those of highest entropy
    rlsd_mix: float = 0.5  # l of `rlsd` at the first step, falling to 0 ...
    rlsd_steps: int = 50  # ... over this many optimiser steps
    rlsd_clip: float = 0.2  # e of `rlsd`
    conditioning: Literal["user", "assistant"] = "user"  # where x+ shows the answer (paper: user turn)
    closing: Literal["prefix_mass", "token", "none"] = "prefix_mass"  # how the brace that ends the answer is scored
    malformed: Literal["floor", "below_worst", "exclude"] = "floor"
    malformed_reward: float | None = None  # under `floor`; null: -30 nats for `likelihood`, 0 for probabilities
    malformed_margin: float = 1.0  # under `below_worst`, in the reward's unit
    min_group_std: float = 0.0  # in the reward's unit; a group of rewards that differ less gets no advantage
    answers: Literal["reference", "wrong"] = (
        "reference"  # wrong: the control, another problem's answer for every prompt
    )
    nonfinite: Literal["stop", "skip"] = "stop"  # what happens at a step whose loss or gradient is not finite
    prompt_template: str = chat.PROMPT_TEMPLATE
    conditioned_template: str = chat.CONDITIONED_TEMPLATE
    max_tokens_per_batch: int = 16384  # padded tokens of a forward pass without gradient

    def __post_init__(self) -> None:
        if not 0 <= self.credit_strength < 1:
            raise SettingsError(f"credit_strength = {self.credit_strength}: expected a number from 0 to below 1")
        if not self.token_clip > 0:
            raise SettingsError(f"token_clip = {self.token_clip}: expected a number above 0")
        if self.entropy_gate is not None and not 0 < self.entropy_gate <= 1:
            raise SettingsError(f"entropy_gate = {self.entropy_gate}: expected a share above 0 and at most 1, or null")
        if not 0 <= self.rlsd_mix <= 1:
            raise SettingsError(f"rlsd_mix = {self.rlsd_mix}: expected a number from 0 to 1")
        if self.rlsd_steps < 1:
            raise SettingsError(f"rlsd_steps = {self.rlsd_steps}: expected at least 1")
        if not 0 <= self.rlsd_clip < 1:
            raise SettingsError(f"rlsd_clip = {self.rlsd_clip}: expected a number from 0 to below 1")
        if not self.malformed_margin >= 0:
            raise SettingsError(f"malformed_margin = {self.malformed_margin}: expected a number of at least 0")
        if not self.min_group_std >= 0:
            raise SettingsError(f"min_group_std = {self.min_group_std}: expected a number of at least 0")
        if self.max_tokens_per_batch < 1:
            raise SettingsError(f"max_tokens_per_batch = {self.max_tokens_per_batch}: expected at least 1")
        if "{question}" not in self.prompt_template:
            raise SettingsError(f"prompt_template = {self.prompt_template!r}: expected a text with {{question}} in it")
        if "{question}" not in self.conditioned_template:
            raise SettingsError(
                f"conditioned_template = {self.conditioned_template!r}: expected a text with {{question}} in it"
            )
        if self.conditioning == "user" and "{answer}" not in self.conditioned_template:
            raise SettingsError(
                f"conditioned_template = {self.conditioned_template!r}: expected a text with {{answer}} in it"
            )

    @property
    def base_policy(self) -> Literal["reference", "current"]:
        """pi_base of the credit: the frozen reference for the paper's rules, the current policy for the others."""
        if self.credit_base is not None:
            return self.credit_base
        return "current" if self.credit in ("projection", "rlsd") else "reference"

    @property
    def floor(self) -> float:
        """The reward of a malformed response under `malformed: floor`."""
        if self.malformed_reward is not None:
            return self.malformed_reward
        return -30.0 if self.reward == "likelihood" else 0.0


@dataclass
class Settings:
    """Everything one run depends on. `training` holds arguments of TRL's GRPOConfig under their own names."""

    model: sections.ModelSettings = field(default_factory=sections.ModelSettings)
    data: sections.DataSettings = field(default_factory=sections.DataSettings)
    method: MethodSettings = field(default_factory=MethodSettings)
    training: dict[str, Any] = field(default_factory=dict)
    generation: sections.GenerationSettings = field(default_factory=sections.GenerationSettings)
    evaluation: sections.EvaluationSettings = field(default_factory=sections.EvaluationSettings)
    launch: sections.LaunchSettings = field(default_factory=sections.LaunchSettings)

    def __post_init__(self) -> None:
        self.training = {**TRAINING_DEFAULTS, **self.training}
        group = self.training["num_generations"]
        if not isinstance(group, int) or group < 2:
            raise SettingsError(
                f"training.num_generations = {group!r}: expected a whole number of at least 2 "
                "(a response is compared with the others of its group)"
            )
        if self.training.get("use_vllm") and self.model.quantization != "none":
            raise SettingsError(
                f"model.quantization = {self.model.quantization!r}: expected none with training.use_vllm, which merges "
                "the adapter into the weights for vLLM, and quantized weights would be others then"
            )
