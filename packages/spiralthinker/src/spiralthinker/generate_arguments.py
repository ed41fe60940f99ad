"""The arguments of transformers' `generate`, as `SpiralThinkerModel.generate` takes them.

They come by name or in a `GenerationConfig`; the name has priority. What a latent model cannot do (beams, for one) is
refused and not ignored, unless it is set to the value at which it does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, RepetitionPenaltyLogitsProcessor
from transformers.generation.logits_process import SuppressTokensLogitsProcessor

from ._common import SettingsError, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

MAX_NEW_TOKENS = 256
TAKEN = (
    "max_new_tokens", "max_length", "min_new_tokens", "min_length", "do_sample", "temperature", "top_p", "top_k",
    "repetition_penalty", "suppress_tokens", "num_return_sequences", "eos_token_id", "pad_token_id",
    "return_dict_in_generate",
)  # fmt: skip
# Arguments at the one value that is no request for anything; None and False are none either.
WITHOUT_EFFECT = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "use_cache": True,
    "length_penalty": 1.0,
    "diversity_penalty": 0.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "guidance_scale": 1.0,
}
NOT_OF_GENERATION = ("bos_token_id", "transformers_version", "_from_model_config")


@dataclass(frozen=True)
class GenerateArguments:
    """What is asked, complete. min_new_tokens, max_new_tokens: of a response, latent steps included

    eos_token_ids: None for the model's own; suppressed: tokens that are never chosen
    """

    max_new_tokens: int
    min_new_tokens: int
    temperature: float  # 0: greedy
    top_p: float
    top_k: int
    repetition_penalty: float
    suppressed: tuple[int, ...]
    num_return_sequences: int
    eos_token_ids: tuple[int, ...] | None
    pad_token_id: int | None
    as_dict: bool

    @classmethod
    def read(
        cls, config: GenerationConfig | None, named: Mapping[str, Any], *, prompt_columns: int
    ) -> GenerateArguments:
        """From what a caller gave. prompt_columns: what `max_length` and `min_length` count, padding included.

        Raises:
            UserError: an argument that is unknown, or that a latent model has no use for.
            SettingsError: an impossible value.
        """
        given = {} if config is None else config.to_diff_dict()
        given |= {name: value for name, value in named.items() if value is not None}
        _check_names(given)
        has = {name: value for name, value in given.items() if value is not None and name in TAKEN}
        if "max_new_tokens" not in has and "max_length" in has:
            has["max_new_tokens"] = has["max_length"] - prompt_columns
            if has["max_new_tokens"] < 1:
                raise SettingsError(
                    f"max_length = {has['max_length']}: the prompts alone have {prompt_columns} tokens; set "
                    "max_new_tokens, which counts the response alone"
                )
        if "min_new_tokens" not in has and "min_length" in has:
            has["min_new_tokens"] = max(0, has["min_length"] - prompt_columns)
        return cls(
            max_new_tokens=has.get("max_new_tokens", MAX_NEW_TOKENS),
            min_new_tokens=has.get("min_new_tokens", 0),
            temperature=_temperature(has),
            top_p=has.get("top_p", 1.0),
            top_k=has.get("top_k", 0),
            repetition_penalty=has.get("repetition_penalty", 1.0),
            suppressed=tuple(has.get("suppress_tokens", ())),
            num_return_sequences=has.get("num_return_sequences", 1),
            eos_token_ids=_ids(has["eos_token_id"]) if "eos_token_id" in has else None,
            pad_token_id=has.get("pad_token_id"),
            as_dict=bool(has.get("return_dict_in_generate", False)),
        )

    def processors(self) -> LogitsProcessorList:
        """What changes the logits, in transformers' own order."""
        processors = LogitsProcessorList()
        if self.repetition_penalty != 1.0:
            try:
                processors.append(RepetitionPenaltyLogitsProcessor(float(self.repetition_penalty)))
            except (ValueError, TypeError) as error:
                raise SettingsError(
                    f"repetition_penalty = {self.repetition_penalty!r}: must be a number above 0"
                ) from error
        if self.suppressed:
            processors.append(SuppressTokensLogitsProcessor(list(self.suppressed)))
        return processors


def mask_of(input_ids: Tensor, tokenizer: PreTrainedTokenizerBase, eos_token_ids: set[int]) -> Tensor:
    """Which tokens are real, as transformers infers it: not the padding token, unless that ends sequences too."""
    pad = tokenizer.pad_token_id
    if pad is None or pad in eos_token_ids:
        return torch.ones_like(input_ids)
    return (input_ids != pad).long()


def _check_names(given: Mapping[str, Any]) -> None:
    known = vars(GenerationConfig())
    for name, value in given.items():
        if name not in known:
            raise UserError(f"generate has no argument {name!r}; of transformers' it takes {', '.join(TAKEN)}")
        if name in TAKEN or name in NOT_OF_GENERATION or value is None:
            continue
        if value != WITHOUT_EFFECT.get(name, False):
            raise UserError(
                f"{name} = {value!r}: a model with latent steps does not generate like that; leave it out. Of "
                f"transformers' arguments it takes {', '.join(TAKEN)}"
            )


def _temperature(has: Mapping[str, Any]) -> float:
    if not has.get("do_sample", False):
        return 0.0
    temperature: float = has.get("temperature", 1.0)
    if not temperature > 0:
        raise SettingsError(f"temperature = {temperature!r}: must be above 0 with do_sample; leave that out for greedy")
    return temperature


def _ids(value: int | list[int] | Tensor) -> tuple[int, ...]:
    found: Any = value.tolist() if isinstance(value, Tensor) else value
    return tuple(found) if isinstance(found, list | tuple) else (found,)
