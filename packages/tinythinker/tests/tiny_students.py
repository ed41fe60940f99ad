"""Small students of both kinds with the embedded tokenizer, and questions for them."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from thinker_common.benchmarks.facts import generate
from tinythinker._common import load_tokenizer
from tinythinker.config import GenerationSettings
from tinythinker.question_sets import question_of
from tinythinker.questions import Question
from tinythinker.student import Form, Student

KINDS = ("causal", "t5")
LENGTHS = GenerationSettings(recall_tokens=8, analyze_tokens=6, summarize_tokens=5, max_tokens_per_batch=4096)
HIDDEN = 32


def t5_config(tokenizer: Any, **changes: Any) -> T5Config:
    return T5Config(
        **{
            "vocab_size": len(tokenizer),
            "d_model": HIDDEN,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "dropout_rate": 0.0,
            "initializer_factor": 0.5,
            "decoder_start_token_id": tokenizer.pad_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            **changes,
        }
    )


def student(kind: str, *, seed: int = 0, form: Form | None = None, **changes: Any) -> Student:
    """Random weights from the seed; changes: of the configuration."""
    tokenizer = load_tokenizer("embedded")
    torch.manual_seed(seed)
    model: Any
    if kind == "t5":
        model = T5ForConditionalGeneration(t5_config(tokenizer, **changes))
    else:
        config = LlamaConfig(
            **{
                "vocab_size": len(tokenizer),
                "hidden_size": HIDDEN,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 512,
                "initializer_range": 0.2,
                "pad_token_id": tokenizer.pad_token_id,
                "bos_token_id": None,
                "eos_token_id": tokenizer.eos_token_id,
                **changes,
            }
        )
        model = LlamaForCausalLM(config)
    return Student(model.eval(), tokenizer, form or Form(chat_template="none", generation=LENGTHS))


def questions(count: int, split: str = "train") -> list[Question]:
    return [question_of(problem) for problem in generate(split, count)]


def save(student: Student, folder: Any) -> str:
    student.model.save_pretrained(folder)
    student.tokenizer.save_pretrained(folder)
    return str(folder)


TARGETS = [
    ("Which creature eats moss?\nRecall:", "A glim eats moss and sleeps at noon in the green grass."),
    ("Is it a mard? (A) yes (B) no\nRecall: It is not.\nAnalyze: For option B,", "No."),
    ("Recall:", "A kesh eats seeds and honey."),
]


def target_rows(student: Student) -> list[dict[str, list[int]]]:
    """Rows of different lengths."""
    from tinythinker.stages import Prompt

    return [
        {"prompt_ids": student.prompt_ids(Prompt(*prompt.split("\n", 1)) if "\n" in prompt else Prompt("?", prompt)),
         "target_ids": student.target_ids(target)}
        for prompt, target in TARGETS
    ]  # fmt: skip
