"""Settings of SpiralThinker (arXiv 2511.08983). "Inferred" are those on which the account that we have says nothing."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ._common import SettingsError, sections
from .annotation import ANSWER_TEMPLATE, Annotation
from .model import LatentSettings

# Arguments of transformers' TrainingArguments that have another home here, or that would contradict the method.
MANAGED_ARGUMENTS = {
    **sections.REFUSED_ARGUMENTS,
    "output_dir": "--output",
    "eval_strategy": "evaluation.every_steps",
    "do_eval": "evaluation.every_steps",
    "gradient_checkpointing": "training.activation_checkpointing, its name in transformers 5",
    "gradient_checkpointing_kwargs": "training.activation_checkpointing_kwargs",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "remove_unused_columns": "the recipe as it is (the trainer needs all its columns)",
    "label_smoothing_factor": "the recipe as it is (the loss is the method's)",
    "resume_from_checkpoint": "--resume",
    "deepspeed": "--zero, or launch.deepspeed_config",
    "fsdp": "--zero (FSDP is not supported)",
    "push_to_hub": "hf upload on the run's model folder",
    "hub_token": "hf auth login (no key belongs into a file)",
    "use_cpu": "CUDA_VISIBLE_DEVICES= (without a GPU the CPU trains anyway)",
}
# Numbers that TrainingArguments takes at any value, and the least that means something.
LEAST_ARGUMENTS = {
    "learning_rate": 0,
    "num_train_epochs": 0,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "logging_steps": 0,
}
TRAINING_DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,  # below 1: a share of the run
    "per_device_train_batch_size": 16,
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": "none",
}


Method = Literal["spiral", "explicit", "answer_only", "pause", "coconut", "codi"]


@dataclass
class MethodSettings:
    """The method's own settings, and which method: SpiralThinker or a baseline.

        spiral       stage 1 (explicit), then stage 2 (implicit)
        explicit     chain-of-thought fine-tuning: stage 1 alone
        answer_only  fine-tuning on the answers, without any step
        pause        stage 2 alone from the base model, without iterations and without alignment
        coconut      arXiv 2412.06769: stage 1, then a curriculum of stages in which the first 1, 2, ... steps become
                     one latent step in front, its tokens written one at a time, without adapter and alignment
        codi         arXiv 2502.21074: all steps become one latent step in front, its tokens written one at a time
                     through the adapter; the explicit version is trained beside it and is its teacher

    Departures of the baselines from their papers: 1. The model writes `<bol>` itself, as the first token of its
    response; cross-entropy is on it. 2. Coconut's last stage drops all steps that are left, and so needs no stage
    behind it. 3. CODI's projection is our latent adapter; its states are aligned at `<eol>` with those at the last
    `<eot>` (CODI: at the token before the answer in both), with the same rule as ours; tokens of both versions are
    averaged each by itself, with equal weights.
    """

    name: Method = "spiral"
    stages: Literal["both", "explicit", "implicit"] = "both"  # of spiral, coconut; explicit: stage 1 alone
    latents: int = 5  # N, tokens of a latent step; coconut: for each step that it stands for
    iterations: int = 5  # K; 0 with alignment false is a pause-token model
    parity: Literal["odd", "even"] = "odd"  # inferred: which steps become latent
    schedule: Literal["sequential", "simultaneous"] = "sequential"  # which latent steps are refined together
    shift: int = 0  # 1 writes to the next position, as Coconut does
    adapter_width: int | None = None  # inferred; null: the hidden size
    adapter_start: Literal["normalisation", "random"] = "normalisation"  # inferred: W2 is zero at first, or random
    label_markers: bool = True  # inferred: cross-entropy on <bol> and <eol>
    cross_entropy: Literal["last", "every"] = "last"  # inferred: the readings it is on; every: simultaneous only
    through_iterations: bool = True  # inferred: gradients through all iterations, or through one
    alignment: bool = True
    align_weight: float = 1.0  # lambda; inferred
    alpha: float = 1.0  # how much more a later iteration counts; inferred
    distance: Literal["smooth_l1", "l1"] = "smooth_l1"  # inferred
    sigma: Literal["layer", "feature"] = "layer"  # inferred: the scale of the distances, one a layer or one a feature
    teacher: Literal["live", "frozen"] = "live"  # inferred: whose states of the explicit version are the target
    spell_weight: float = 0.0  # of spiral, not in the paper: what is written to the latents spells the step
    curriculum: int = 3  # coconut: latent stages, among which training's steps or epochs are divided
    prompt_template: str = "{question}"
    answer_template: str = ANSWER_TEMPLATE
    nonfinite: Literal["stop", "skip"] = "stop"  # at a step whose loss or gradient is not finite

    def __post_init__(self) -> None:
        if self.stages != "both" and self.name not in ("spiral", "coconut"):
            raise SettingsError(f"stages = {self.stages!r}: expected both, since {self.name} has one stage only")
        if self.curriculum < 1:
            raise SettingsError(f"curriculum = {self.curriculum}: expected at least 1")
        if self.name == "codi" and self.teacher == "frozen":
            raise SettingsError("teacher = 'frozen': expected live, since codi trains its teacher")
        if not self.align_weight >= 0:
            raise SettingsError(f"align_weight = {self.align_weight}: expected a number of at least 0")
        if not self.spell_weight >= 0:
            raise SettingsError(f"spell_weight = {self.spell_weight}: expected a number of at least 0")
        if self.cross_entropy == "every" and self.schedule == "sequential":
            raise SettingsError(
                "cross_entropy = 'every': expected last, or schedule simultaneous (a finished step is read once)"
            )

    @property
    def aligns(self) -> bool:
        return self.alignment and self.name in ("spiral", "codi")

    @property
    def spells(self) -> bool:
        """Whether latents are to spell the step that they stand for; without iterations nothing is written to them."""
        return self.spell_weight > 0 and self.name == "spiral" and self.iterations > 0

    @property
    def trains_teacher(self) -> bool:
        """Whether the explicit version is trained beside the implicit one."""
        return self.name == "codi"


@dataclass
class EvaluationSettings(sections.EvaluationSettings):
    """Greedy evaluation behind each stage, and while it trains."""

    at_start: bool = False  # always: a model that has no latent steps yet cannot be evaluated with them

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at_start:
            raise SettingsError("at_start = true: expected false, a model without latent steps has nothing to show")


@dataclass
class Settings:
    """Everything one run depends on.

    training: arguments of transformers' TrainingArguments under their own names
    stage1: those of them that are others in stage 1
    """

    model: sections.ModelSettings = field(default_factory=sections.ModelSettings)
    data: sections.DataSettings = field(default_factory=sections.DataSettings)
    method: MethodSettings = field(default_factory=MethodSettings)
    training: dict[str, Any] = field(default_factory=dict)
    stage1: dict[str, Any] = field(default_factory=dict)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    launch: sections.LaunchSettings = field(default_factory=sections.LaunchSettings)

    def __post_init__(self) -> None:
        self.training = {**TRAINING_DEFAULTS, **self.training}
        if self.model.quantization != "none":
            raise SettingsError(
                f"model.quantization = {self.model.quantization!r}: expected none, since each stage starts from the "
                "merged weights of the one before, and an adapter on quantized weights is not merged"
            )
        try:
            self.latent_settings()
        except SettingsError as error:
            raise SettingsError(f"method.{error}") from error

    def latent_settings(self, stage: int | None = None) -> LatentSettings:
        """What the model is made with, and saved with. stage: of Coconut's curriculum, from 1; None for the last."""
        method = self.method
        in_front = method.name in ("coconut", "codi")
        last = stage is None or stage == method.curriculum
        steps = 1 if method.name != "coconut" else method.curriculum if stage is None else stage
        return LatentSettings(
            annotation=Annotation(
                parity=method.parity,
                placement="front" if in_front else "alternating",
                replaced=None if last else stage,
                latents=method.latents * steps,
                label_markers=method.label_markers,
                prompt_template=method.prompt_template,
                answer_template=method.answer_template,
                chat_template=self.model.chat_template,
            ),
            iterations=0 if in_front or method.name == "pause" else method.iterations,
            schedule="autoregressive" if in_front else method.schedule,
            shift=method.shift,
            adapter_width=method.adapter_width,
            adapter_start=method.adapter_start,
            feedback="state" if method.name == "coconut" else "adapter",
        )
