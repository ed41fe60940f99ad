"""A training so small that a test can run it many times: shared by the tests of checkpoints, faults and parity.

python tiny_training.py FOLDER STEPS        # trains with a checkpoint at every step, resuming what is there
"""

import random
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from thinker_common.training.dependable import choose_together
from thinker_common.training.resume import RunIdentity, data_fingerprint
from thinker_common.training.supervised import IGNORED, SupervisedTrainer

VOCABULARY = 300
EXAMPLES = 50  # six batches of eight and one of two: with eight shares, six are empty


def rows(examples: int = EXAMPLES) -> list[dict[str, list[int]]]:
    """Rows of 4 to 40 tokens; the first part of each is a prompt without targets."""
    draw = random.Random(3)
    made = []
    for _ in range(examples):
        length = draw.randint(4, 40)
        ids = [draw.randrange(1, VOCABULARY) for _ in range(length)]
        prompt = draw.randint(1, length - 2)
        made.append({"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]})
    return made


def config(**changes: Any) -> LlamaConfig:
    return LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "tie_word_embeddings": False,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": None,
            **changes,
        }
    )


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")


def arguments(output: Path, **changes: Any) -> TrainingArguments:
    return TrainingArguments(
        **{
            "output_dir": str(output),
            "max_steps": 10,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 2,
            "logging_steps": 3,
            "save_strategy": "steps",
            "save_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "use_cpu": True,
            "bf16": False,
            "seed": 7,
            "ddp_find_unused_parameters": False,
            **changes,
        }
    )


class Noting(SupervisedTrainer):
    """Has a mean and a sum in its log."""

    def figures(self) -> dict[str, Any]:
        return {"cross_entropy": "mean", "tokens": "sum"}

    def loss_sums(self, model: Any, batch: Any) -> Any:
        sums, counts = super().loss_sums(model, batch), float(batch["counts"])
        self.note(
            "cross_entropy", sums["target_tokens"].detach() * counts, self.count_units(batch)["target_tokens"] * counts
        )
        self.note("tokens", float(batch["attention_mask"].sum()) * counts)
        return sums


def trainer(
    output: Path, *, cls: Any = SupervisedTrainer, data: Any = None, settings: Any = None, **changes: Any
) -> Any:
    """Dropout is on, so that a resume that lost the random numbers shows."""
    rest = {name: changes.pop(name) for name in ("allow_changes", "nonfinite") if name in changes}
    args = arguments(output, **changes)
    set_seed(11)
    data = rows() if data is None else data
    identity = RunIdentity(settings or {"training.learning_rate": 1e-3}, {"train": data_fingerprint(data)})
    made = cls(LlamaForCausalLM(config(attention_dropout=0.1)), args, data, tokenizer(), identity=identity, **rest)
    made.remove_callback(PrinterCallback)
    return made


def weights(made: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in made.model.parameters()])


def main(folder: str, steps: str) -> None:
    made = trainer(Path(folder), max_steps=int(steps))
    point = choose_together(Path(folder), "auto")
    made.train(resume_from_checkpoint=point.checkpoint.path if point.checkpoint else None)
    torch.save(weights(made), Path(folder) / "final.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
