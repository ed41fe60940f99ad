"""Rows as a student gets them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ._common import load_config, load_tokenizer
from .rows import StageRow, select
from .stages import STAGES, prompt_ids, target_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokens(NamedTuple):
    """The text of each token: those that are read, and those that are learnt."""

    prompt: list[str]
    target: list[str]


def sampled(rows: Sequence[StageRow], limit: int, seed: int) -> list[StageRow]:
    """`limit` rows of each stage, drawn from the seed, stage after stage."""
    rng = random.Random(seed)
    return [row for own in select(rows, STAGES).values() for row in rng.sample(own, min(limit, len(own)))]


def student(model: str) -> tuple[PreTrainedTokenizerBase, bool]:
    """The tokenizer of a student, and whether it is an encoder-decoder model."""
    return load_tokenizer(model), bool(load_config(model).is_encoder_decoder)


def encoded(row: StageRow, tokenizer: PreTrainedTokenizerBase, *, encoder_decoder: bool, chat_template: str) -> Tokens:
    prompt = prompt_ids(tokenizer, row.prompt(), encoder_decoder=encoder_decoder, chat_template=chat_template)
    target = target_ids(tokenizer, row.target, encoder_decoder=encoder_decoder)
    return Tokens([str(tokenizer.decode([i])) for i in prompt], [str(tokenizer.decode([i])) for i in target])
