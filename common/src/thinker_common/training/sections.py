"""Sections that the recipes of all three methods share. A method's `Settings` is a dataclass of these and its own."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ..benchmarks import RESERVED
from ..distributed.launch_settings import LaunchSettings
from ..errors import SettingsError, check_setting

__all__ = [
    "REFUSED_ARGUMENTS", "DataSettings", "EvaluationSettings", "GenerationSettings", "LaunchSettings", "LoraSettings",
    "ModelSettings",
]  # fmt: skip

# Arguments of transformers' trainers that no method takes, with what to use in their place.
REFUSED_ARGUMENTS = dict.fromkeys(
    ("torch_compile", "torch_compile_backend", "torch_compile_mode"),
    "the recipe as it is (losses take parts of the model, in shapes that change at every step)",
)


@dataclass
class LoraSettings:
    """A low-rank adapter. The defaults are rank 32, alpha 64, no dropout, on every linear module but the head."""

    r: int = 32
    alpha: float = 64.0
    dropout: float = 0.0
    target_modules: list[str] | str = "all-linear"

    def __post_init__(self) -> None:
        _at_least("r", self.r, 1)
        check_setting("alpha", self.alpha, self.alpha > 0, "a number above 0")
        check_setting("dropout", self.dropout, 0 <= self.dropout < 1, "a number from 0 to below 1")
        check_setting(
            "target_modules", self.target_modules, bool(self.target_modules), "all-linear or a list of module names"
        )


@dataclass
class ModelSettings:
    """The policy: a Hugging Face id, a local folder, or `embedded`, the small model that ships with the package."""

    name_or_path: str = "embedded"
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    chat_template: str = "auto"  # auto (the tokenizer's own, else plain text) | none | path of a .jinja file
    lora: LoraSettings | None = None
    quantization: Literal["none", "4bit"] = "none"  # of the weights under an adapter (QLoRA)

    def __post_init__(self) -> None:
        _not_empty("name_or_path", self.name_or_path)
        _not_empty("chat_template", self.chat_template)
        if self.quantization != "none" and self.lora is None:
            raise SettingsError(
                f"quantization = {self.quantization!r}: quantized weights are not trained: add an adapter, lora.r=16, "
                "or set quantization to none"
            )


@dataclass
class DataSettings:
    """What to train on: a benchmark's own split, or the user's JSONL file."""

    benchmark: str | None = "chains"
    train_file: str | None = None  # set: used in place of the benchmark
    columns: dict[str, str] = field(default_factory=dict)  # our field -> the file's column, e.g. {question: prompt}
    kind: Literal["math", "mcq", "bool", "text"] = "math"  # how the answers of train_file are compared
    split: str = "train"
    options: dict[str, Any] = field(default_factory=dict)  # of the benchmark's own, e.g. {size: small} of graphs
    limit: int | None = None  # a seeded sample of this many problems
    seed: int = 0
    data_dir: str | None = None  # original files of the benchmarks; null: the Hugging Face hub

    def __post_init__(self) -> None:
        if self.limit is not None:
            _at_least("limit", self.limit, 1)
        _at_least("seed", self.seed, 0)
        if self.benchmark is None and self.train_file is None:
            raise SettingsError("benchmark and train_file are both null: one of them has to say what to train on")
        if self.columns and self.train_file is None:
            raise SettingsError("columns is for train_file, which is null")
        if self.options and self.train_file is not None:
            raise SettingsError("options is for benchmark, and train_file is used in its place")
        _own_options("options", self.options)


@dataclass
class GenerationSettings:
    """How responses are sampled while training."""

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: the whole vocabulary
    max_tokens_per_batch: int = 131072  # prompts and responses that a process generates at once

    def __post_init__(self) -> None:
        _at_least("max_new_tokens", self.max_new_tokens, 1)
        _at_least("max_tokens_per_batch", self.max_tokens_per_batch, 1)
        check_setting("temperature", self.temperature, self.temperature > 0, "a number above 0 (training samples)")
        check_setting("top_p", self.top_p, 0 < self.top_p <= 1, "a number above 0 and at most 1")
        _at_least("top_k", self.top_k, 0)


@dataclass
class EvaluationSettings:
    """Greedy evaluation before, during and after training."""

    benchmarks: list[str] = field(default_factory=lambda: ["chains"])  # or files like train_file, ending in .jsonl
    split: str = "test"
    options: dict[str, dict[str, Any]] = field(default_factory=dict)  # benchmark -> options of its own
    limit: int | None = None
    max_new_tokens: int = 256
    max_tokens_per_batch: int = 8192
    at_start: bool = True
    at_end: bool = True
    every_steps: int | None = None  # while training, on problems held out of the training data
    validation_limit: int | None = None  # how many of them; null: 100, or a fifth of a small file
    export: Literal["best", "last"] = "best"  # of the validated weights, those of highest accuracy; or the last ones
    # generalthinker: the paper's, for comparable figures; unboxed: also reads an answer that stands in no box
    grader: Literal["default", "generalthinker", "unboxed"] = "default"

    def __post_init__(self) -> None:
        if self.limit is not None:
            _at_least("limit", self.limit, 1)
        if self.every_steps is not None:
            _at_least("every_steps", self.every_steps, 1)
        if self.validation_limit is not None:
            _at_least("validation_limit", self.validation_limit, 1)
        _at_least("max_new_tokens", self.max_new_tokens, 1)
        _at_least("max_tokens_per_batch", self.max_tokens_per_batch, 1)
        for name, options in self.options.items():
            if name not in self.benchmarks:
                raise SettingsError(f"options.{name}: expected a name that stands in benchmarks")
            _own_options(f"options.{name}", options)
        if not self.benchmarks and (self.at_start or self.at_end):
            raise SettingsError("benchmarks is empty: name one, or set at_start and at_end to false")


def _at_least(name: str, value: int, smallest: int) -> None:
    check_setting(name, value, value >= smallest, f"a whole number of at least {smallest}")


def _own_options(name: str, options: dict[str, Any]) -> None:
    for reserved in RESERVED:
        if reserved in options:
            raise SettingsError(f"{name}.{reserved}: not an option of a benchmark's own, but a setting beside options")


def _not_empty(name: str, value: str) -> None:
    check_setting(name, value, bool(value.strip()), "a name or a path")
