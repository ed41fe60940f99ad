"""Tiny random models, and word problems for them: shared by the tests of this package."""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from spiralthinker.annotation import Annotation
from spiralthinker.columns import Batch, implicit_row, lay_out
from spiralthinker.model import LatentSettings, SpiralThinkerModel
from thinker_common.benchmarks.problem import Problem

WORDS = ["<pad>", "<eos>", "?", *(f"w{number}" for number in range(60))]
FAMILIES = ("llama", "llama-tied", "qwen2", "gpt2")


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="?")


def base_model(family: str = "llama", *, layers: int = 2, width: int = 16) -> PreTrainedModel:
    torch.manual_seed(5)
    tokens: dict[str, Any] = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(**tokens, n_embd=width, n_layer=layers, n_head=2, n_positions=256, initializer_range=0.2)
        ).eval()
    shape = {
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2,
    }  # fmt: skip
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**tokens, **shape, tie_word_embeddings=True)).eval()
    return LlamaForCausalLM(LlamaConfig(**tokens, **shape, tie_word_embeddings=family == "llama-tied")).eval()


def latent_model(
    family: str = "llama", *, dtype: torch.dtype = torch.float32, lora: Any = None, **changes: Any
) -> SpiralThinkerModel:
    """A model whose adapter does something: at its start it only normalises."""
    annotation = Annotation(**{name: changes.pop(name) for name in ("latents", "parity") if name in changes})
    settings = LatentSettings(annotation=annotation, **{"iterations": 2, **changes})
    model = SpiralThinkerModel.from_base(base_model(family), tokenizer(), settings, lora=lora)
    torch.manual_seed(6)
    torch.nn.init.normal_(model.parts.adapter.outer.weight, std=0.5)
    return model.to(dtype)


def problems() -> list[Problem]:
    """With 4, 3, 1 and 0 steps, texts of different lengths."""

    def words(*numbers: int) -> str:
        return " ".join(f"w{number}" for number in numbers)

    return [
        Problem("p/0", words(1, 2, 3, 4, 5, 6, 7), "w40", "text", steps=(words(8, 9), words(10, 11, 12), words(13), words(14, 15))),
        Problem("p/1", words(21, 22, 23), "w41 w42", "text", steps=(words(24, 25, 26), words(27), words(28, 29))),
        Problem("p/2", words(31, 32, 33, 34, 35), "w43", "text", steps=(words(36, 37, 38, 39),)),
        Problem("p/3", words(44, 45), "w46 w47", "text"),
    ]  # fmt: skip


def rows(
    model: SpiralThinkerModel,
    some: list[Problem] | None = None,
    *,
    trains_teacher: bool = False,
    spelled: bool = False,
) -> list[Any]:
    annotation = model.settings.annotation
    examples = [annotation.example(model.tokenizer, problem) for problem in (problems() if some is None else some)]
    options = {"trains_teacher": trains_teacher, "spelled": spelled}
    return [implicit_row(annotation, example, model.markers, **options) for example in examples]


def batch(model: SpiralThinkerModel, some: list[Problem] | None = None, *, spelled: bool = False) -> Batch:
    return lay_out(rows(model, some, spelled=spelled), latents=model.settings.annotation.latents, pad_token_id=0)
