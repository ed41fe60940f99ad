"""What a checkpoint costs: our save against transformers' own and against plain `save_pretrained`.

    OMP_NUM_THREADS=2 python common/scripts/measure_checkpoints.py [MILLIONS_OF_PARAMETERS [REPEATS]]

One process, float32, AdamW: a checkpoint holds the weights and twice as much of optimiser state, `save_pretrained` the
weights alone. Repeats are interleaved and begin with everything synced. transformers' save leaves the files in the
page cache; ours is on the disk when it returns, with every file hashed.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from thinker_common.training import checkpoints
from thinker_common.training.supervised import SupervisedTrainer


def main(millions: float = 30, repeats: int = 5) -> None:
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        folder = Path(scratch)
        trainer = trained(millions, folder / "run")
        inside = folder / "run" / "checkpoint-1"

        def ours() -> None:
            trainer.state.global_step += 1
            trainer._save_checkpoint(trainer.model, None)

        def transformers_own() -> None:
            trainer._staging = folder / "theirs"
            Trainer._save_checkpoint(trainer, trainer.model, None)
            trainer._staging = None

        ways: dict[str, Callable[[], object]] = {
            "save_pretrained": lambda: trainer.model.save_pretrained(folder / "weights"),
            "transformers' checkpoint": transformers_own,
            "this checkpoint": ours,
            "  of which to the disk": lambda: checkpoints.sync_content(folder / "theirs" / last(folder)),
            "  of which hashing": lambda: checkpoints.record_files(inside, checkpoints.content_names(inside)),
            "verifying before a resume": lambda: checkpoints.verify(inside),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, save in ways.items():
                if not name.startswith("  of which to"):  # that one measures what transformers' save left in the cache
                    os.sync()
                if name == "  of which to the disk":
                    transformers_own()
                began = time.perf_counter()
                save()
                seconds[name].append(time.perf_counter() - began)
        size = sum(record.size for record in checkpoints.read_manifest(inside).files.values())
        print(
            f"{trainer.model.num_parameters() / 1e6:.1f} M parameters, checkpoint of {size / 1e6:.0f} MB, "
            f"{repeats} repeats: seconds, mean (least to most)"
        )
        for name, each in seconds.items():
            print(f"{name:27} {statistics.mean(each):6.2f} ({min(each):.2f} to {max(each):.2f})")


def last(folder: Path) -> str:
    return max((folder / "theirs").iterdir(), key=lambda path: path.stat().st_mtime).name


def trained(millions: float, output: Path) -> SupervisedTrainer:
    """A trainer behind its first step, so that the optimiser has a state."""
    width = 512
    layers = max(1, round(millions * 1e6 / (4 * width**2 + 3 * width * 4 * width)))
    config = LlamaConfig(
        vocab_size=1024, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=8, pad_token_id=0,
    )  # fmt: skip
    words = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
    arguments = TrainingArguments(
        output_dir=str(output), max_steps=1, save_steps=1, save_total_limit=1, report_to="none", disable_tqdm=True,
        use_cpu=True, bf16=False, dataloader_pin_memory=False,
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
    rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}]
    trainer = SupervisedTrainer(LlamaForCausalLM(config), arguments, rows, tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.args.save_total_limit = None
    return trainer


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]), *map(int, sys.argv[2:3]))
