"""A start for `phrases`: the embedded model, trained further on written solutions of phrases alone.

    python packages/generalthinker/scripts/phrases_start.py --output runs/phrases-start

The embedded model is right on 8 % of `phrases`, too few for a reward to work with. Its corpus had one document in eight
of this task; this goes through 16,000 more from the same writers, 45 % of whom state the step and the others answer
straight away. Problems of the training split, other than the first 4,000, which the study trains on. About five minutes
with one thread; the same weights from the same command.
"""

import argparse
import random
import sys
from pathlib import Path

from transformers import TrainingArguments, set_seed

from thinker_common.benchmarks import phrases
from thinker_common.models.chat import PROMPT_TEMPLATE, fill
from thinker_common.models.load import load_policy, load_tokenizer
from thinker_common.training.supervised import SupervisedTrainer

sys.path.append(str(Path(__file__).parents[3] / "common/scripts"))
from embedded_corpus import solution

STUDIED = 4000  # training problems that the study draws rollouts from
DOCUMENTS = 16_000
BATCH = 64


def rows(tokenizer) -> list[dict[str, list[int]]]:
    rng = random.Random("phrases start")
    found = []
    for problem in phrases.generate("train", STUDIED + DOCUMENTS)[STUDIED:]:
        asked = [{"role": "user", "content": fill(PROMPT_TEMPLATE, question=problem.prompt_text())}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        written = tokenizer(solution(rng, "phrases", problem), add_special_tokens=False)["input_ids"]
        response = [*written, tokenizer.eos_token_id]
        found.append({"input_ids": [*prompt, *response], "labels": [-100] * len(prompt) + response})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    set_seed(1)
    tokenizer, model = load_tokenizer("embedded@1"), load_policy("embedded@1")
    arguments = TrainingArguments(
        output_dir=str(output / "training"), num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=1e-3,
        lr_scheduler_type="cosine", warmup_steps=10, logging_steps=25, save_strategy="no", report_to="none",
        disable_tqdm=True, seed=1,
    )  # fmt: skip
    SupervisedTrainer(model, arguments, rows(tokenizer), tokenizer).train()
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    main()
