"""What of an analysis does a T5-shaped student with random weights learn, and what holds the rest up?

    python packages/tinythinker/scripts/diagnose_t5.py lookup --batch 64 --steps 400
    python packages/tinythinker/scripts/diagnose_t5.py analyze --learning-rate 3e-4 --position-spread 2 --steps 1000

The student is that of `study_embedded.py`. AdamW, a constant rate behind 75 steps of warm-up, gradients clipped at 1.

analyze   rows of `facts`: the prompt has the exact recall and asks for one option, the target is the exact analysis.
lookup    that first hop alone: "(A) zemi (B) crel (C) cado (D) quon, Analyze: For option D," is continued by "quon".
          The names are drawn anew for every row.

Every --every steps a line: the cross-entropy in nats a token, and in % of the rows since the last line how many had the
most likely token, with what is right before it given, all through

    name      of the option's creature: it has to be found by its letter. One of the four at random is 25 %
    facts     what the student says of that creature, whose name is given: 32 creatures are to be known by heart
    verdict   "fits" or "does": 75 % is what "does not fit" always gives
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from study_embedded import T5_POSITION_SPREAD, make_t5
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, T5ForConditionalGeneration

from thinker_common.benchmarks import facts
from thinker_common.models import load_tokenizer
from tinythinker.config import DataSettings
from tinythinker.question_sets import FITS, load_questions
from tinythinker.questions import LETTERS
from tinythinker.stages import Prompt, analyze_prompt, prompt_ids, target_ids

WARMUP = 75
OPTIONS = 4
IGNORED = -100
Row = tuple[Prompt, str, dict[str, tuple[int, int]]]  # the target's parts by their places in its text


def lookups(rng: random.Random) -> Iterator[Row]:
    names = [creature.name for creature in facts.KNOWLEDGE_BASE]
    while True:
        options, asked = rng.sample(names, OPTIONS), rng.randrange(OPTIONS)
        listed = " ".join(f"({letter}) {name}" for letter, name in zip(LETTERS, options, strict=False))
        name = options[asked]
        yield Prompt(listed, f"Analyze: For option {LETTERS[asked]},"), name, {"name": (0, len(name))}


def analyses(rng: random.Random) -> Iterator[Row]:
    questions = load_questions(DataSettings(benchmark="facts", split="train", limit=20_000)).questions
    rows = [(question, option) for question in questions for option in range(len(question.options))]
    rng.shuffle(rows)
    for question, option in rows:
        exact = question.reference
        assert exact is not None
        text = exact.reasons[option]
        name = text.index(question.options[option])
        said = name + len(question.options[option])
        verdict = text.index(". ") + len(". So it ")
        parts = {
            "name": (name, said),
            "facts": (said, text.index(". ")),
            "verdict": (verdict, verdict + len("fits" if text.endswith(FITS) else "does")),
        }
        yield analyze_prompt(question, option, exact.knowledge), text, parts


def tokens_of(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], part: tuple[int, int]) -> list[int]:
    """Places of the tokens of a target that hold a part of its text."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    first = len(ids) - 1 - len(offsets)  # a token for the space before the text, if it has one; the last one ends it
    return [first + place for place, (begin, end) in enumerate(offsets) if begin < part[1] and end > part[0]]


def train(arguments: argparse.Namespace, student: Path) -> Iterator[str]:
    tokenizer = load_tokenizer(str(student))
    model = T5ForConditionalGeneration.from_pretrained(student)
    optimiser = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate, weight_decay=0.0)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1, (step + 1) / WARMUP))
    rows = (lookups if arguments.task == "lookup" else analyses)(random.Random(arguments.seed))
    losses: list[float] = []
    right: dict[str, list[bool]] = {}
    began = time.perf_counter()
    for step in range(1, arguments.steps + 1):
        batch = [next(rows) for _ in range(arguments.batch)]
        prompts = [torch.tensor(prompt_ids(tokenizer, prompt, encoder_decoder=True)) for prompt, *_ in batch]
        targets = [target_ids(tokenizer, text, encoder_decoder=True) for _, text, _ in batch]
        labels_BT = pad_sequence([torch.tensor(ids) for ids in targets], batch_first=True, padding_value=IGNORED)
        found = model(
            input_ids=pad_sequence(prompts, batch_first=True, padding_value=tokenizer.pad_token_id),
            attention_mask=pad_sequence([torch.ones_like(ids) for ids in prompts], batch_first=True),
            labels=labels_BT,
        )
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        warmup.step()
        losses.append(found.loss.item())
        best_BT = found.logits.argmax(-1) == labels_BT
        for (_, text, parts), ids, best_T in zip(batch, targets, best_BT.tolist(), strict=True):
            for part, places in parts.items():
                hits = [best_T[place] for place in tokens_of(tokenizer, text, ids, places)]
                right.setdefault(part, []).append(all(hits))
        if step % arguments.every == 0:
            shares = ", ".join(f"{part} {100 * sum(hits) / len(hits):.1f} %" for part, hits in right.items())
            yield (
                f"step {step}: {sum(losses) / len(losses):.4f} nats a token; {shares}; "
                f"{time.perf_counter() - began:.0f} s"
            )
            losses, right = [], {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("analyze", "lookup"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16, help="rows")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument(
        "--position-spread", type=float, default=T5_POSITION_SPREAD,
        help="standard deviation of the relative position biases at the start; 0: as transformers draws them",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        student = Path(folder) / "student"
        make_t5(student, arguments.seed, position_spread=arguments.position_spread)
        for line in train(arguments, student):
            print(line, flush=True)


if __name__ == "__main__":
    main()
