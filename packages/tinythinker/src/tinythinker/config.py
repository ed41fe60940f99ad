"""Settings of TinyThinker. The defaults are those of the paper where it states them (arXiv 2412.08024)."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from ._common import SettingsError, sections

# ----------------------------------------------------------------------------------------------------------------- data


@dataclass
class DataSettings:
    """Which questions: of a benchmark, or of the user's file."""

    benchmark: str | None = "facts"  # facts, csqa, obqa, strategyqa, or another with options
    train_file: str | None = None  # set: used in place of the benchmark; divided 8 : 1 : 1
    columns: dict[str, str] = field(default_factory=dict)  # our field -> the file's column, e.g. {question: prompt}
    rows: str | None = None  # a folder that `data build` made; null: the exact explanations of the benchmark
    split: str = "train"  # valid, test; dev of StrategyQA; all of a train_file
    split_seed: int = 0  # of csqa's, strategyqa's and a train_file's division; the published splits are those of 0
    limit: int | None = None  # a seeded sample of this many questions
    seed: int = 0  # of that sample
    data_dir: str | None = None  # original files of the benchmarks; null: the Hugging Face hub
    revision: str | None = None  # of the hub data set; null: the one that the base pins

    def __post_init__(self) -> None:
        if self.benchmark is None and self.train_file is None:
            raise SettingsError("benchmark and train_file are both null: one of them has to say which questions")
        if self.columns and self.train_file is None:
            raise SettingsError("columns is for train_file, which is null")
        if self.limit is not None:
            _at_least("limit", self.limit, 1)
        _at_least("seed", self.seed, 0)
        _at_least("split_seed", self.split_seed, 0)


# -------------------------------------------------------------------------------------------------------------- teacher


@dataclass
class TeacherSettings:
    """Who explains the training questions, and how they are asked. Temperature, tokens and samples are the authors'."""

    kind: Literal["endpoint", "model", "recorded", "human"] = "endpoint"
    model: str = "gpt-4o-2024-05-13"  # name at the endpoint; for `model`, a Hugging Face id, a folder, or embedded
    samples: int = 8  # replies to each question: 8 for CommonsenseQA, 4 for OpenBookQA and StrategyQA
    temperature: float = 0.8
    max_tokens: int = 256  # of one reply
    shots: int = 3  # worked examples in the prompt
    file: str | None = None  # of `recorded`: the replies; of `human`: ecqa.jsonl, where the data set has no facts

    # endpoint: any server that speaks the OpenAI protocol
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str | None = "OPENAI_API_KEY"  # the variable that holds the key; null: the server needs none
    concurrency: int = 8  # requests on their way at a time
    requests_per_minute: int | None = None  # null: no limit
    tokens_per_minute: int | None = None  # of prompts and the longest replies together; null: no limit
    timeout: float = 120.0  # seconds without a byte
    deadline: float = 600.0  # seconds until an answer is there in whole
    attempts: int = 6  # for each request, with doubling pauses between them
    first_pause: float = 1.0  # seconds before the second attempt
    longest_pause: float = 60.0  # a server's Retry-After may ask for more
    input_price: float | None = None  # of a million tokens, in the currency that you like
    output_price: float | None = None

    # model: a local one
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    chat_template: str = "auto"
    max_tokens_per_batch: int = 8192
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise SettingsError("model is empty: name the teacher")
        for name in ("samples", "max_tokens", "concurrency", "attempts", "max_tokens_per_batch"):
            _at_least(name, getattr(self, name), 1)
        for name in ("shots", "seed"):
            _at_least(name, getattr(self, name), 0)
        for name in ("requests_per_minute", "tokens_per_minute"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in ("input_price", "output_price"):
            price = getattr(self, name)
            if price is not None and price < 0:
                raise SettingsError(f"{name} = {price}: expected a price of a million tokens, or null")
        if self.temperature < 0:
            raise SettingsError(f"temperature = {self.temperature}: expected a number of at least 0")
        if self.temperature == 0 and self.samples > 1:
            raise SettingsError(f"samples = {self.samples} at temperature 0 are all the same: ask for one sample")
        for name in ("timeout", "deadline", "first_pause", "longest_pause"):
            _positive(name, getattr(self, name))
        # Neither message shows the value: a key that was put in the wrong place must not come out in a log.
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise SettingsError("base_url: expected an address such as http://localhost:8000/v1")
        if url.username or url.password or url.query or url.fragment:
            raise SettingsError("base_url: expected an address alone; a key belongs into the environment (api_key_env)")
        if self.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise SettingsError(
                "api_key_env: expected the name of an environment variable in capitals, such as OPENAI_API_KEY; "
                "the key itself belongs into that variable"
            )
        if self.kind == "recorded" and self.file is None:
            raise SettingsError("file is null: for kind = recorded it has to name the replies (JSON lines)")


@dataclass
class BuildSettings:
    """Which replies become training rows."""

    labels: Literal["keep_gold", "drop_disagreeing", "vote"] = "keep_gold"  # vote is the authors' rule
    keep: int | None = None  # at most so many explanations a question, those that differ most; null: all
    min_edits: int = 10  # key information that differs by no more counts as the same in other words

    def __post_init__(self) -> None:
        if self.keep is not None:
            _at_least("keep", self.keep, 1)
        _at_least("min_edits", self.min_edits, 0)


@dataclass
class PreparationSettings:
    """What the verb `data` works from."""

    data: DataSettings = field(default_factory=DataSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    build: BuildSettings = field(default_factory=BuildSettings)


# --------------------------------------------------------------------------------------------------------------- method

# Arguments of transformers' TrainingArguments that have another home here, or that would contradict the method.
MANAGED_ARGUMENTS = {
    **sections.REFUSED_ARGUMENTS,
    "output_dir": "--output",
    "learning_rate": "method.acquisition.learning_rate and method.reflection.learning_rate",
    "num_train_epochs": "method.acquisition.num_train_epochs and method.reflection.num_train_epochs",
    "max_steps": "method.acquisition.max_steps and method.reflection.max_steps",
    "lr_scheduler_type": "method.acquisition.lr_scheduler_type and method.reflection.lr_scheduler_type",
    "warmup_steps": "method.acquisition.warmup_share and method.reflection.warmup_share",
    "gradient_accumulation_steps": "training.per_device_train_batch_size (what it does not hold is accumulated)",
    "eval_strategy": "method.acquisition.evaluate_every",
    "do_eval": "method.acquisition.evaluate_every",
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
TRAINING_DEFAULTS: dict[str, Any] = {
    "seed": 42,
    "per_device_train_batch_size": 64,  # rows of a forward pass, at most; of phase 2, pairs
    "logging_steps": 10,
    "save_strategy": "steps",
    "save_steps": 100,
    "save_total_limit": 1,
    "report_to": "none",
}


@dataclass
class AcquisitionSettings:
    """Phase 1, reasoning acquisition: cross-entropy on the targets of the three stages."""

    stages: list[Literal["recall", "analyze", "summarize"]] = field(
        default_factory=lambda: ["recall", "analyze", "summarize"]  # fewer: an ablation; summarize is always needed
    )
    mixing: Literal["interval", "proportional", "sequential", "single"] = "interval"  # order of the stages' batches
    interval: int = 100  # optimiser batches of a stage in one round; of analyze, times the options
    batch_size: int = 64  # rows of an optimiser batch, over all ranks and accumulation passes
    num_train_epochs: float = 10
    max_steps: int | None = None  # set: in place of the epochs
    learning_rate: float = 5e-4
    lr_scheduler_type: str = "cosine"
    warmup_share: float = 0.1  # of the steps
    evaluate_every: int | None = None  # optimiser steps; null: (2 + options) * interval, one round of the stages

    def __post_init__(self) -> None:
        if not self.stages or len(set(self.stages)) < len(self.stages):
            raise SettingsError(f"stages = {self.stages}: expected each stage once, and at least one")
        if "summarize" not in self.stages:
            raise SettingsError(f"stages = {self.stages}: without summarize there is no answer")
        if self.mixing == "single" and len(self.stages) > 1:
            raise SettingsError(f"mixing = 'single': is for one stage, and stages has {len(self.stages)}")
        for name in ("interval", "batch_size"):
            _at_least(name, getattr(self, name), 1)
        if self.evaluate_every is not None:
            _at_least("evaluate_every", self.evaluate_every, 1)
        _check_schedule(self)

    def steps_between_evaluations(self, options: int) -> int:
        return (2 + options) * self.interval if self.evaluate_every is None else self.evaluate_every


@dataclass
class ReflectionSettings:
    """Phase 2, self-reflection: preferences among the student's own recalls and analyses."""

    iterations: int = 5  # 0: phase 1 alone
    stages: list[Literal["recall", "analyze"]] = field(
        default_factory=lambda: ["recall", "analyze"]  # fewer: an ablation
    )
    reference: Literal["previous", "acquired"] = "previous"  # the student of the last iteration, or that of phase 1
    samples: int = 10  # chains of each question, in each of the two passes
    temperature: float = 0.7
    top_k: int = 0  # 0: the whole vocabulary
    recalls: int = 1  # of each question, those that the analyze pass is drawn after; preferred ones before others
    limit: int | None = None  # a seeded sample of so many of the training questions, another in each iteration
    pairs: Literal["gold_and_predicted", "all_options"] = "gold_and_predicted"  # options whose analyses are compared
    beta: float = 0.5  # how far the student may leave the reference: smaller lets it go further
    alpha: float = 0.5  # weight of the NLL of the preferred texts
    batch_size: int = 32  # pairs of an optimiser batch, over all ranks and accumulation passes
    num_train_epochs: float = 10  # in each iteration; from the authors' code
    max_steps: int | None = None  # set: in place of the epochs
    learning_rate: float = 5e-6
    lr_scheduler_type: str = "cosine"
    warmup_share: float = 0.1

    def __post_init__(self) -> None:
        if not self.stages or len(set(self.stages)) < len(self.stages):
            raise SettingsError(f"stages = {self.stages}: expected each stage once, and at least one")
        for name in ("iterations", "top_k"):
            _at_least(name, getattr(self, name), 0)
        for name in ("batch_size", "recalls"):
            _at_least(name, getattr(self, name), 1)
        if self.limit is not None:
            _at_least("limit", self.limit, 1)
        _at_least("samples", self.samples, 2)
        for name in ("temperature", "beta"):
            _positive(name, getattr(self, name))
        if not self.alpha >= 0:
            raise SettingsError(f"alpha = {self.alpha}: expected a number of at least 0")
        _check_schedule(self)


@dataclass
class MethodSettings:
    """The method's own settings: its two phases, or what it is compared with.

    baseline: label learns the answer alone (the rows of summarize without recall and analyses), cot the whole chain as
        one target; both in phase 1's way, and without phase 2
    """

    baseline: Literal["label", "cot"] | None = None  # the answer alone, or the whole chain as one target
    acquisition: AcquisitionSettings = field(default_factory=AcquisitionSettings)
    reflection: ReflectionSettings = field(default_factory=ReflectionSettings)
    nonfinite: Literal["stop", "skip"] = "stop"  # at a step whose loss or gradient is not finite

    def __post_init__(self) -> None:
        if self.iterations:
            missing = [stage for stage in self.reflection.stages if stage not in self.acquisition.stages]
            if missing:
                raise SettingsError(
                    f"reflection.stages = {self.reflection.stages}: {missing[0]} is not among acquisition.stages, so "
                    "there is nothing to reflect on; leave it out, or set reflection.iterations = 0"
                )

    @property
    def iterations(self) -> int:
        """Of phase 2, which baselines do not have."""
        return 0 if self.baseline is not None else self.reflection.iterations


@dataclass
class GenerationSettings:
    """How long a stage's text may be, in tokens, and how much is generated at a time."""

    recall_tokens: int = 128
    analyze_tokens: int = 96  # for one option
    summarize_tokens: int = 16
    max_tokens_per_batch: int = 16384  # prompts and longest texts, padding included: as memory allows

    def __post_init__(self) -> None:
        for name in ("recall_tokens", "analyze_tokens", "summarize_tokens", "max_tokens_per_batch"):
            _at_least(name, getattr(self, name), 1)


Answering = Literal["greedy", "self_consistency", "option_likelihood"]


@dataclass
class EvaluationSettings:
    """Validation while phase 1 trains and behind each phase, and tests behind each phase."""

    benchmarks: list[str] | None = None  # null: the training data's own other splits
    split: str = "test"
    limit: int | None = None  # a seeded sample of this many questions
    answering: list[Answering] = field(
        default_factory=lambda: ["greedy"]  # each tests every student once more
    )
    samples: int = 10  # chains of each question for self_consistency
    temperature: float = 0.7
    top_k: int = 0
    at_end: bool = True  # test the student of each phase
    validation_limit: int | None = 200  # a seeded sample of the split valid; null: all of it; 0: no validation
    export: Literal["best", "last"] = "best"  # by validation: the best weights of phase 1, the best student of all

    def __post_init__(self) -> None:
        if self.limit is not None:
            _at_least("limit", self.limit, 1)
        if self.validation_limit is not None:
            _at_least("validation_limit", self.validation_limit, 0)
        _at_least("samples", self.samples, 2)
        _at_least("top_k", self.top_k, 0)
        _positive("temperature", self.temperature)
        if not self.answering or len(set(self.answering)) < len(self.answering):
            raise SettingsError(f"answering = {self.answering}: expected each way once, and at least one")
        if self.benchmarks == []:
            raise SettingsError("benchmarks is empty: name one, or set at_end to false")


@dataclass
class Settings:
    """Everything one run depends on.

    training: arguments of transformers' TrainingArguments under their own names, for both phases
    """

    model: sections.ModelSettings = field(default_factory=sections.ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    method: MethodSettings = field(default_factory=MethodSettings)
    training: dict[str, Any] = field(default_factory=dict)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    launch: sections.LaunchSettings = field(default_factory=sections.LaunchSettings)

    def __post_init__(self) -> None:
        self.training = {**TRAINING_DEFAULTS, **self.training}
        if self.data.train_file is not None and self.data.split == "all" and self.evaluation.validation_limit != 0:
            raise SettingsError("data.split = 'all' leaves nothing to validate on: set evaluation.validation_limit = 0")


def _check_schedule(phase: AcquisitionSettings | ReflectionSettings) -> None:
    for name in ("num_train_epochs", "learning_rate"):
        _positive(name, getattr(phase, name))
    if phase.max_steps is not None:
        _at_least("max_steps", phase.max_steps, 1)
    if not 0 <= phase.warmup_share < 1:
        raise SettingsError(f"warmup_share = {phase.warmup_share}: expected a share from 0 to below 1")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise SettingsError(f"{name} = {value}: expected a whole number of at least {least}")


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise SettingsError(f"{name} = {value}: expected a number above 0")
