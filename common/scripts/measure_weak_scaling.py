"""Weak scaling of supervised training on CPU: two ranks with one thread each against one, the same work per rank.

    python common/scripts/measure_weak_scaling.py                                # DDP, accumulation 4
    python common/scripts/measure_weak_scaling.py --accumulation 1 --stages none 1 2

A stage is ZeRO's for the two ranks, `none` is DDP. Efficiency is the median step of one process over the median step of
two ranks. With DDP and ZeRO-1 the ranks talk once a step, which accumulation thins out; with ZeRO-2 and 3 in every
forward pass. It takes about two minutes on an otherwise idle machine with two cores; on a busy one it says nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS, WARM_UP = 12, 3
EXAMPLES, TOKENS = 4, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accumulation", type=int, default=4, help="forward passes of a step")
    parser.add_argument("--stages", nargs="+", default=["none"], choices=["none", "0", "1", "2", "3"])
    options = parser.parse_args()
    accumulation = str(options.accumulation)
    with tempfile.TemporaryDirectory() as folder:
        alone = run(1, "none", accumulation, folder)
        print(f"one process: {alone['median']:.3f} s a step ({alone['least']:.3f} to {alone['most']:.3f})")
        for stage in options.stages:
            two = run(2, stage, accumulation, folder)
            engine = "DDP" if stage == "none" else f"ZeRO-{stage}"
            print(
                f"two ranks, {engine}: {two['median']:.3f} s a step ({two['least']:.3f} to {two['most']:.3f}), "
                f"efficiency {alone['median'] / two['median']:.1%}"
            )
        print(
            f"{alone['parameters'] / 1e6:.1f} M parameters, {EXAMPLES} examples of {TOKENS} tokens a forward pass, "
            f"{accumulation} of these a step, {STEPS - WARM_UP} steps after {WARM_UP} to warm up"
        )


def run(ranks: int, stage: str, accumulation: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, __file__, "--worker", stage, accumulation, folder], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads((Path(folder) / "steps.json").read_text())


def worker(stage: str, accumulation: str, folder: str) -> None:
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    from thinker_common.distributed.process_group import leave
    from thinker_common.training.supervised import SupervisedTrainer

    config = LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=8,
        max_position_embeddings=TOKENS, pad_token_id=0,
    )  # fmt: skip
    words = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
    ranks = int(os.environ["WORLD_SIZE"])
    generator = torch.Generator().manual_seed(0)
    examples = STEPS * EXAMPLES * int(accumulation) * ranks
    ids = torch.randint(1, config.vocab_size, (examples, TOKENS), generator=generator).tolist()
    zero = None if stage == "none" else {"zero_optimization": {"stage": int(stage)}, "gradient_clipping": "auto"}
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    arguments = TrainingArguments(
        output_dir=folder, max_steps=STEPS, per_device_train_batch_size=EXAMPLES,
        gradient_accumulation_steps=int(accumulation), save_strategy="no",
        report_to="none", disable_tqdm=True, use_cpu=True, bf16=False, dataloader_pin_memory=False,
        ddp_find_unused_parameters=False, deepspeed=zero and {**zero, **dict.fromkeys(sizes, "auto")},
    )  # fmt: skip

    class Clock(TrainerCallback):
        ends: list[float] = []  # noqa: RUF012

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.ends.append(time.perf_counter())

    rows = [{"input_ids": row, "labels": row} for row in ids]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
    model = LlamaForCausalLM(config)
    trainer = SupervisedTrainer(model, arguments, rows, tokenizer, callbacks=[Clock()])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    steps = [end - begin for begin, end in zip(Clock.ends[WARM_UP - 1 :], Clock.ends[WARM_UP:], strict=False)]
    if arguments.process_index == 0:
        found = {
            "median": statistics.median(steps),
            "least": min(steps),
            "most": max(steps),
            "parameters": model.num_parameters(),
        }
        (Path(folder) / "steps.json").write_text(json.dumps(found))
    leave()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main()
