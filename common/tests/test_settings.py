"""Recipes, overrides and their error messages."""

import dataclasses
import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from thinker_common.errors import SettingsError
from thinker_common.training.plain_yaml import dump_yaml, parse_yaml
from thinker_common.training.sections import (
    DataSettings,
    EvaluationSettings,
    GenerationSettings,
    LoraSettings,
    ModelSettings,
)
from thinker_common.training.settings import check_arguments, load_settings, nearest_name, to_yaml


@dataclass
class MethodSettings:
    credit: Literal["none", "controlled"] = "controlled"
    strength: float = 0.1
    thresholds: list[float] = field(default_factory=list)
    cache: Path | None = None


@dataclass
class Settings:
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    method: MethodSettings = field(default_factory=MethodSettings)
    training: dict[str, Any] = field(default_factory=dict)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)


def load(*overrides: str, recipe: str | None = None) -> Settings:
    return load_settings(Settings, recipe_text=recipe, recipe_name="recipe my-run", overrides=overrides)


def message(*overrides: str, recipe: str | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(*overrides, recipe=recipe)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- values that are accepted -----------------------------------------------------------------------------------------


def test_defaults_recipe_and_override_in_rising_order_of_precedence():
    recipe = "method: {strength: 0.2, credit: none}\ndata:\n  limit: 8\n"
    assert load() == Settings()
    assert load(recipe=recipe).method == MethodSettings(credit="none", strength=0.2)
    settings = load("method.strength=0.3", "method.strength=0.4", recipe=recipe)
    assert (settings.method.strength, settings.method.credit, settings.data.limit) == (0.4, "none", 8)
    assert load(recipe="") == load(recipe="# only a comment\n") == Settings()


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("method.strength=1e-6", "method", "strength", 1e-6),
        ("method.strength=1E3", "method", "strength", 1000.0),
        ("method.strength=2", "method", "strength", 2.0),
        ("method.strength=.5", "method", "strength", 0.5),
        ("method.credit=none", "method", "credit", "none"),
        ("method.thresholds=[1, 2.5, 1e-3]", "method", "thresholds", [1.0, 2.5, 0.001]),
        ("method.cache=/some/where", "method", "cache", Path("/some/where")),
        ("method.cache=null", "method", "cache", None),
        ("data.limit=null", "data", "limit", None),
        ("data.limit=", "data", "limit", None),
        ("model.revision=0123456", "model", "revision", "0123456"),
        ("model.revision=1234567", "model", "revision", "1234567"),
        ("model.revision='1.0'", "model", "revision", "1.0"),
        ("model.name_or_path=2024-01-01", "model", "name_or_path", "2024-01-01"),
        ("model.name_or_path=a=b", "model", "name_or_path", "a=b"),
        ("evaluation.benchmarks=[gsm8k, math500]", "evaluation", "benchmarks", ["gsm8k", "math500"]),
    ],
)
def test_override_values(override, section, name, value):
    got = getattr(getattr(load(override), section), name)
    assert got == value
    assert type(got) is type(value)


def test_words_that_yaml_1_1_takes_for_booleans_stay_text():
    settings = load("training.save_strategy=no", "training.a=on", "training.b=true", "training.c=1e-6")
    assert settings.training == {"save_strategy": "no", "a": "on", "b": True, "c": 1e-6}


def test_override_opens_an_optional_section_that_is_null_by_default():
    assert load().model.lora is None
    assert load("model.lora.r=8").model.lora == LoraSettings(r=8)
    assert load("model.lora={r: 4}", "model.lora.alpha=8").model.lora == LoraSettings(r=4, alpha=8.0)
    assert load("model.lora=null", recipe="model: {lora: {r: 8}}").model.lora is None
    assert load("model.lora.target_modules=[q_proj]").model.lora.target_modules == ["q_proj"]


def test_free_mappings_keep_what_the_recipe_has():
    recipe = "training: {max_steps: 5, model_init_kwargs: {a: 1}}\ndata: {train_file: x.jsonl, columns: {question: q}}"
    settings = load("training.model_init_kwargs.b=2", "data.columns.answer=007", recipe=recipe)
    assert settings.training == {"max_steps": 5, "model_init_kwargs": {"a": 1, "b": 2}}
    assert settings.data.columns == {"question": "q", "answer": "007"}


# --- round trip -------------------------------------------------------------------------------------------------------


def test_resolved_settings_run_again():
    settings = load(
        "model.lora.r=8", "method.cache=/x", "training.save_strategy='no'", "training.tag='1e-6'", "data.limit=3"
    )
    again = load_settings(Settings, recipe_text=to_yaml(settings), recipe_name="config.yaml", overrides=[])
    assert again == settings


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(_plain)
@example({"\x85": "a\u2028b \u2029"})
def test_yaml_text_reads_back_as_the_same_value(value):
    assert parse_yaml(dump_yaml(value), "test") == value


@pytest.mark.parametrize(
    "text", ["no", "on", "1e-6", "0123", "1_000", "12:30", "2020-01-01", "null", "~", "", "true", "<<"]
)
def test_text_that_looks_like_something_else_reads_back_as_text(text):
    assert parse_yaml(dump_yaml({"k": text}), "test") == {"k": text}


# --- mistakes: each names the source, the key, the value and what is accepted -----------------------------------------


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method.credt=none", "command line: unknown setting 'method.credt'; did you mean 'method.credit'?"),
        ("modle.revision=x", "command line: unknown setting 'modle'; did you mean 'model'?"),
        ("model.lora.rank_=8", "command line: unknown setting 'model.lora.rank_'; model.lora has r, alpha, dropout, target_modules"),
        ("strength=0.3", "command line: unknown setting 'strength'; did you mean 'method.strength'?"),
        ("generation.strength=0.3", "command line: unknown setting 'generation.strength'; did you mean 'method.strength'?"),
        ("zzz=1", "command line: unknown setting 'zzz'; a setting is named SECTION.KEY, and the sections are model, data, method, training, generation, evaluation"),
        ("method.credit=maybe", "command line: method.credit = 'maybe': expected one of none, controlled"),
        ("method.strength=strong", "command line: method.strength = 'strong': expected a finite number"),
        ("method.strength=.nan", "command line: method.strength = nan: expected a finite number"),
        ("method.strength=true", "command line: method.strength = true: expected a finite number"),
        ("method.strength=[1]", "command line: method.strength = [1]: expected a finite number"),
        ("method.thresholds=1", "command line: method.thresholds = 1: expected a list, such as [a, b]"),
        ("method.thresholds=[1, x]", "command line: method.thresholds[1] = 'x': expected a finite number"),
        ("data.limit=2.5", "command line: data.limit = 2.5: expected a whole number or null"),
        ("data.limit=0", "command line: data.limit = 0: expected a whole number of at least 1"),
        ("data.seed=true", "command line: data.seed = true: expected a whole number"),
        ("data.columns=[a]", "command line: data.columns = ['a']: expected a mapping, such as {key: value}"),
        ("data.options={seed: 1}", "command line: data.options.seed: not an option of a benchmark's own, but a setting beside options"),
        ("data.columns={question: q}", "command line: data.columns is for train_file, which is null"),
        ("model=embedded", "command line: model = 'embedded': expected a section with name_or_path, revision, dtype, chat_template, lora, quantization"),
        ("model.lora=8", "command line: model.lora = 8: expected a section with r, alpha, dropout, target_modules or null"),
        ("model.lora.r=0", "command line: model.lora.r = 0: expected a whole number of at least 1"),
        ("model.dtype.kind=x", "command line: model.dtype = {'kind': 'x'}: expected one of auto, float32, bfloat16, float16"),
        ("evaluation.at_start=yes", "command line: evaluation.at_start = 'yes': expected true or false"),
        ("generation.temperature=0", "command line: generation.temperature = 0.0: expected a number above 0 (training samples)"),
        ("model.revision=1.5", "command line: model.revision = 1.5: expected text (quoted, if it looks like a number or a truth value) or null"),
        ("max_steps", "'max_steps' is not a setting: write section.key=value, for example training.max_steps=20"),
        ("model..revision=1", "'model..revision=1' is not a setting: write section.key=value, for example training.max_steps=20"),
        ("method.thresholds=[1", "setting 'method.thresholds=[1', line 1, column 3: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    ],
)  # fmt: skip
def test_override_mistakes(override, expected):
    assert message(override) == expected


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("method: {credt: none}", "recipe my-run: unknown setting 'method.credt'; did you mean 'method.credit'?"),
        ("metod: {credit: none}", "recipe my-run: unknown setting 'metod'; did you mean 'method'?"),
        ("method:\n  credit: [none]", "recipe my-run: method.credit = ['none']: expected one of none, controlled"),
        ("method: null", "recipe my-run: method = null: expected a section with credit, strength, thresholds, cache"),
        ("- a\n- b", "recipe my-run: a recipe is a mapping of sections (model, data, method, training, generation, evaluation), got ['a', 'b']"),
        ("method: {strength: 1\n", "recipe my-run, line 2, column 1: not valid YAML: expected ',' or '}', but got '<stream end>'"),
        ("method:\n  strength: 1\n  strength: 2\n", "recipe my-run, line 3, column 3: not valid YAML: the key 'strength' is given twice"),
        ("training: &a {again: *a}", "recipe my-run, line 1, column 22: not valid YAML: aliases (*name) are not accepted"),
        ("training: !!python/object/apply:os.getcwd []", "recipe my-run, line 1, column 11: not valid YAML: tags (!name) are not accepted"),
        ("training: " + "[" * 5000, "recipe my-run, line 1, column 61: not valid YAML: nested too deeply"),
        ("training: \x00", "recipe my-run: not valid YAML: unacceptable character #x0000: special characters are not allowed in \"<unicode string>\", position 10"),
        ("training: {1: 2}", "recipe my-run: training = {1: 2}: expected a mapping, such as {key: value}"),
        ("? [a]\n: b", "recipe my-run, line 1, column 3: not valid YAML: found unhashable key"),
    ],
)  # fmt: skip
def test_recipe_mistakes(recipe, expected):
    assert message(recipe=recipe) == expected


def test_a_mistake_in_the_recipe_is_not_blamed_on_an_override():
    assert message("method.strength=0.3", recipe="method: {credit: maybe}").startswith("recipe my-run: method.credit")
    assert message("method.credit=maybe", recipe="method: {credit: none}").startswith("command line: method.credit")


def test_an_override_cannot_go_below_a_value():
    assert message("training.max_steps.x=1", recipe="training: {max_steps: 5}") == (
        "training.max_steps.x cannot be set: training.max_steps is the value 5"
    )


def test_required_setting_that_is_missing():
    @dataclass
    class Required:
        folder: str

    with pytest.raises(SettingsError, match=r"^defaults: folder must be set$"):
        load_settings(Required, recipe_text=None, recipe_name="defaults", overrides=[])


# --- somebody else's arguments ----------------------------------------------------------------------------------------


class Schedule(enum.Enum):
    LINEAR = "linear"
    COSINE = "cosine"


@dataclass
class TheirConfig:
    output_dir: str | None = None
    learning_rate: float = 1e-5
    max_steps: int = -1
    report_to: str | list[str] | None = None
    lr_scheduler_type: Schedule | str = "linear"
    kwargs: dict[str, Any] | str | None = None
    number: int = dataclasses.field(default=0, init=False)


def test_arguments_are_checked_and_coerced():
    given = {"learning_rate": 1, "max_steps": 5, "report_to": ["a"], "lr_scheduler_type": "cosine", "kwargs": {"x": 1}}
    checked = check_arguments(given, TheirConfig)
    assert checked == {**given, "learning_rate": 1.0}
    assert type(checked["learning_rate"]) is float
    assert TheirConfig(**checked).max_steps == 5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"lerning_rate": 1}, "unknown setting 'training.lerning_rate'; did you mean 'training.learning_rate'?"),
        ({"number": 1}, "unknown setting 'training.number'; training has learning_rate, max_steps, report_to, lr_scheduler_type, kwargs"),
        ({"learning_rate": "fast"}, "training.learning_rate = 'fast': expected a finite number"),
        ({"lr_scheduler_type": "cosin"}, "training.lr_scheduler_type = 'cosin': expected one of linear, cosine"),
        ({"report_to": 1.5}, "training.report_to = 1.5: expected text (quoted, if it looks like a number or a truth value) or a list, such as [a, b] or null"),
        ({"output_dir": "x"}, "training.output_dir cannot be set here: use --output"),
    ],
)  # fmt: skip
def test_argument_mistakes(arguments, expected):
    with pytest.raises(SettingsError) as caught:
        check_arguments(arguments, TheirConfig, managed={"output_dir": "--output"})
    assert str(caught.value) == expected


def test_arguments_of_the_real_trainer_configuration():
    from trl import GRPOConfig

    given = {
        "learning_rate": 1, "max_steps": 2, "save_strategy": "no", "report_to": "none", "lr_scheduler_type": "cosine",
        "eval_steps": 5, "bf16": False, "gradient_checkpointing_kwargs": {"use_reentrant": False}, "log_level": "error",
        "beta": 0, "loss_type": "grpo", "optim": "adamw_torch", "logging_steps": 1,
    }  # fmt: skip
    GRPOConfig(output_dir="unused", use_cpu=True, **check_arguments(given, GRPOConfig))
    with pytest.raises(
        SettingsError, match=r"^unknown setting 'training.max_step'; did you mean 'training.max_steps'\?$"
    ):
        check_arguments({"max_step": 2}, GRPOConfig)
    with pytest.raises(
        SettingsError, match=r"^training.save_strategy = 'never': expected one of no, steps, epoch, best$"
    ):
        check_arguments({"save_strategy": "never"}, GRPOConfig)


def test_nearest_name_prefers_the_same_setting_in_another_section():
    known = ["model", "model.dtype", "generation.max_new_tokens", "evaluation.max_new_tokens", "evaluation.limit"]
    assert nearest_name("eval.max_new_tokens", known) == "evaluation.max_new_tokens"
    assert nearest_name("generation.max_tokens", known) == "generation.max_new_tokens"
    assert nearest_name("model.dtyp", known) == "model.dtype"
    assert nearest_name("limits", known) == "evaluation.limit"
    assert nearest_name("model.xyz", known) is None


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: LoraSettings(dropout=1.0), "dropout = 1.0"),
        (lambda: LoraSettings(alpha=0), "alpha = 0"),
        (lambda: LoraSettings(target_modules=[]), "target_modules = []"),
        (lambda: ModelSettings(name_or_path=" "), "name_or_path = ' '"),
        (lambda: DataSettings(benchmark=None), "benchmark and train_file are both null"),
        (lambda: DataSettings(seed=-1), "seed = -1"),
        (lambda: GenerationSettings(top_p=1.5), "top_p = 1.5"),
        (lambda: GenerationSettings(top_k=-1), "top_k = -1"),
        (lambda: GenerationSettings(max_new_tokens=0), "max_new_tokens = 0"),
        (lambda: EvaluationSettings(benchmarks=[]), "benchmarks is empty"),
        (lambda: EvaluationSettings(limit=0), "limit = 0"),
    ],
)
def test_impossible_values(make, expected):
    with pytest.raises(SettingsError) as caught:
        make()
    assert str(caught.value).startswith(expected)
