"""A student: a model, its tokenizer, and what it was taught, which is saved beside its weights.

`tinythinker.json` in a model folder says which stages the student has and how its prompts are written. Without that
file a model is taken for one that has all three stages.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._common import DataError, UserError, load_policy, load_tokenizer, write_atomic
from .config import GenerationSettings
from .stages import STAGES, Prompt, Stage, chain_tags, prompt_ids, target_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SETTINGS_FILE = "tinythinker.json"


@dataclass(frozen=True)
class Form:
    """How a student answers.

    stages: those that it has; summarize is always among them
    one_pass: it writes the whole chain in one go, as the chain-of-thought baseline does
    chat_template: "auto", "none" or a file; see `stages.prompt_ids`
    """

    stages: tuple[Stage, ...] = STAGES
    one_pass: bool = False
    chat_template: str = "auto"
    generation: GenerationSettings = field(default_factory=GenerationSettings)


@dataclass(frozen=True)
class Student:
    """model: a PreTrainedModel, or one with PEFT adapters"""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    form: Form

    @property
    def encoder_decoder(self) -> bool:
        return bool(self.model.config.is_encoder_decoder)

    @property
    def decoder_start(self) -> int | None:
        """What an encoder-decoder student's decoder reads first; None for a causal student."""
        if not self.encoder_decoder:
            return None
        start = self.model.config.decoder_start_token_id
        if start is None:
            raise UserError("the model's config.json has no decoder_start_token_id, with which its decoder begins")
        return int(start)

    @property
    def positions(self) -> int | None:
        """Tokens that the model takes: prompt and text together, or on each side of an encoder-decoder. None: any."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return None if found is None else int(found)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        return prompt_ids(
            self.tokenizer, prompt, encoder_decoder=self.encoder_decoder, chat_template=self.form.chat_template
        )

    def target_ids(self, target: str) -> list[int]:
        return target_ids(self.tokenizer, target, encoder_decoder=self.encoder_decoder)

    def longest_text(self, stage: Stage, options: int) -> int:
        """Tokens that it writes at most for a stage of a question with so many options.

        In one pass the text of recall is the whole chain: the texts of all stages and the tags between them.
        """
        length = self.form.generation
        if self.form.one_pass and stage == "recall":
            tags = len(self.target_ids(chain_tags(options)))
            return length.recall_tokens + options * length.analyze_tokens + length.summarize_tokens + tags
        return {
            "recall": length.recall_tokens, "analyze": length.analyze_tokens, "summarize": length.summarize_tokens
        }[stage]  # fmt: skip

    def check_fits(self, what: str, prompt: int, target: int, advice: str = "leave it out") -> None:
        """DataError if the model takes no prompt of so many tokens with so many tokens to follow.

        what: in the message, where the prompt comes from
        advice: in the message, what helps beside another student
        """
        if self.positions is None:
            return
        needed = max(prompt, target + 1) if self.encoder_decoder else prompt + target
        if needed > self.positions:
            raise DataError(
                f"{what}: {prompt} tokens of the prompt and {target} to follow, and the model has "
                f"{self.positions} positions; {advice}, or take a student with a longer context"
            )


def load_student(name_or_path: str, *, revision: str | None = None, dtype: str = "auto") -> Student:
    """A student as it was saved; any other model as one of three stages. UserError as `load_policy`."""
    return student_in(name_or_path, load_policy(name_or_path, revision=revision, dtype=dtype), revision=revision)


def student_in(name_or_path: str, model: Any, *, revision: str | None = None) -> Student:
    """The same around its model, which is loaded already."""
    return Student(model, load_tokenizer(name_or_path, revision=revision), read_form(Path(name_or_path)))


def read_form(folder: Path) -> Form:
    """What the folder says of its student. DataError for a file that is none of ours."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return Form()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        stages = tuple(stage for stage in STAGES if stage in values["stages"])
        form = Form(stages, values["one_pass"], values["chat_template"], GenerationSettings(**values["generation"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the description of a student ({error!r})") from error
    if "summarize" not in stages:
        raise DataError(f"{path}: stages {values['stages']!r} have no summarize, so there is no answer")
    return form


def write_form(folder: Path, form: Form) -> None:
    write_atomic(folder / SETTINGS_FILE, json.dumps(asdict(form), indent=2) + "\n")
