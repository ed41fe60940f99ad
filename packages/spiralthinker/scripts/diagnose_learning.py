r"""What stage 2 learns on `chains`, and what keeps it from learning more: short trainings, watched at one number.

    python packages/spiralthinker/scripts/diagnose_learning.py train --name start --stage explicit --save runs/start
    python packages/spiralthinker/scripts/diagnose_learning.py train --name K1 --start runs/start method.iterations=1
    python packages/spiralthinker/scripts/diagnose_learning.py skills
    python packages/spiralthinker/scripts/diagnose_learning.py agree runs/model
    python packages/spiralthinker/scripts/diagnose_learning.py table

`train` takes the settings of the recipe `embedded`, changed by SECTION.KEY=VALUE, and appends a line to the ledger.
Watched is the *hidden number*: the first number behind a latent step, which is what that step results in. It has to
come out of the latents, and is written nowhere before. Its accuracy is teacher-forced and on problems held out (split
`valid`), so that it moves long before the accuracy of whole responses, in which two or three of them have to be right.
At the end whole responses to test problems are generated, with the model's own latents, another problem's, and zeros.

`--first-only` makes step 1 latent and leaves all others text: one hidden number, and one step of arithmetic. `--fit N`
trains on N problems alone and measures on the same ones.

`skills` asks the pretrained model for numbers, written and not, with the sentence that ended its prompts and without.
`agree` says how far the logits of the training forward are from those that generation chose by, token by token.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from spiralthinker.arguments import training_arguments
from spiralthinker.columns import Row, explicit_row, implicit_row, lay_out
from spiralthinker.config import Settings
from spiralthinker.controls import exchange
from spiralthinker.evaluations import evaluate_latent
from spiralthinker.generation import LatentGenerator
from spiralthinker.iteration import iterate
from spiralthinker.model import SpiralThinkerModel
from spiralthinker.trainer import SpiralThinkerTrainer
from thinker_common.benchmarks import chains
from thinker_common.benchmarks.problem import LoadedBenchmark, Problem
from thinker_common.models import chat
from thinker_common.models.chat import PROMPT_TEMPLATE
from thinker_common.models.load import load_policy, load_tokenizer
from thinker_common.training import study
from thinker_common.training.recipes import recipe_text
from thinker_common.training.settings import load_settings

LEDGER = Path(__file__).parents[3] / "docs/results/data/spiralthinker-diagnosis.jsonl"
RECIPE = "embedded"
BATCH = 50
TRAINING_PROBLEMS = 20_000
WATCHED = 200
TERMS = ("cross_entropy", "alignment", "latent_cross_entropy")
ROUNDS = ("first", "later")

# B rows, T columns, N latents, D hidden size, V vocabulary


# ------------------------------------------------------------------------------------------------ the hidden number


@torch.no_grad()
def hidden_numbers(model: SpiralThinkerModel, rows: Sequence[Row], *, exchanged: bool = False) -> dict[str, float]:
    """Share of hidden numbers that are the most likely token, teacher-forced: behind the first latent step, and later.

    exchanged: each row reads the latents of the next one at the last iteration
    """
    is_number_V = number_tokens(model)
    right: dict[str, list[bool]] = {name: [] for name in ROUNDS}
    latents = model.settings.annotation.latents
    model.eval()
    for begin in range(0, len(rows), BATCH):
        some = rows[begin : begin + BATCH]
        batch = lay_out(some, latents=latents, pad_token_id=model.tokenizer.pad_token_id or 0)
        states_BTD = read(model, batch, exchanged=exchanged)
        head = model.head()
        for row, mask_T, states_TD in zip(some, batch["mask"].bool(), states_BTD, strict=True):
            ids = torch.tensor(row["input_ids"])
            choice_T = head(states_TD[mask_T]).argmax(-1)
            for number, bol in enumerate(row["bols"]):
                behind = bol + latents + 2
                place = behind + int(is_number_V[ids[behind:]].nonzero()[0])
                right[ROUNDS[min(number, 1)]].append(bool(choice_T[place - 1] == ids[place]))
    return {name: round(sum(found) / len(found), 3) for name, found in right.items() if found}


def number_tokens(model: SpiralThinkerModel) -> Tensor:
    texts = [model.tokenizer.decode([token]) for token in range(len(model.tokenizer))]
    return torch.tensor([text.isdecimal() for text in texts])


def read(model: SpiralThinkerModel, batch: dict[str, Tensor], *, exchanged: bool) -> Tensor:
    """The last layer's states in the training forward, (B, T, D)."""
    settings, calls = model.settings, 0

    def refine(states_BND: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        latents_BND = model.refine(states_BND)
        last = calls % settings.iterations == 0
        return latents_BND.roll(1, 0) if exchanged and last else latents_BND

    return iterate(
        model.reader(batch["mask"]), model.embed(batch["input_ids"]), batch["bols"].tolist(), refine,
        latents=settings.annotation.latents, iterations=settings.iterations, schedule=settings.schedule,
        shift=settings.shift,
    ).readings[-1]  # fmt: skip


class Watch(TrainerCallback):
    """Measures while training, and collects what the trainer logs."""

    def __init__(self, measure: Callable[[], dict[str, float]], every: int) -> None:
        self.measure, self.every = measure, every
        self.curve: list[dict[str, Any]] = []
        self._logged: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        self._logged |= {name: logs[name] for name in TERMS if name in logs}

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step % self.every == 0:
            model = rest["model"]
            self.curve.append({"step": state.global_step, **self._logged, **self.measure()})
            model.train()
            print(self.curve[-1], flush=True)


# ------------------------------------------------------------------------------------------------ training


def train(options: argparse.Namespace) -> None:
    settings = load_settings(
        Settings, recipe_text=recipe_text("spiralthinker", RECIPE), recipe_name=RECIPE, overrides=options.overrides
    )
    settings.training["seed"] = options.seed
    set_seed(options.seed)
    latent = settings.latent_settings()
    if options.first_only:
        annotation = dataclasses.replace(latent.annotation, placement="front", replaced=1)
        latent = dataclasses.replace(latent, annotation=annotation)
    if options.start is None:
        base, tokenizer = load_policy("embedded@1", dtype="float32"), load_tokenizer("embedded@1")
        model = SpiralThinkerModel.from_base(base, tokenizer, latent)
    else:
        model = SpiralThinkerModel.from_pretrained(options.start, dtype="float32")
        model.settings = latent
    annotation = latent.annotation

    def rows_of(problems: Sequence[Problem], stage: str) -> list[Row]:
        examples = annotation.examples(model.tokenizer, problems)
        if stage == "explicit":
            return [explicit_row(example, model.markers) for example in examples]
        spelled = settings.method.spells
        return [implicit_row(annotation, example, model.markers, spelled=spelled) for example in examples]

    problems = chains.generate("train", options.fit or TRAINING_PROBLEMS)
    if settings.method.name == "answer_only":
        problems = [dataclasses.replace(problem, steps=()) for problem in problems]
    watched = problems if options.fit else chains.generate("valid", WATCHED)
    tested = problems if options.fit else chains.generate("test", options.test)
    watched_rows = rows_of(watched, "implicit")

    def measure() -> dict[str, float]:
        return hidden_numbers(model, watched_rows) if options.stage == "implicit" else {}

    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(settings, Path(folder), options.stage)
        rows = rows_of(problems, options.stage)
        trainer = SpiralThinkerTrainer(
            model,
            arguments,
            rows,
            settings.method,
            stage=options.stage,
            teacher=frozen_teacher(options.start, settings),
        )
        trainer.remove_callback(PrinterCallback)
        watch = Watch(measure, options.every)
        trainer.add_callback(watch)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    model.eval()
    found = {
        "name": options.name, "seed": options.seed, "stage": options.stage, "first_only": options.first_only,
        "start": None if options.start is None else Path(options.start).name, "fit": options.fit,
        "settings": options.overrides, "steps": trainer.state.global_step,
        "examples": trainer.state.global_step * arguments.per_device_train_batch_size, "seconds": round(seconds),
        "curve": watch.curve, "commit": study.current_commit(),
    }  # fmt: skip
    if options.stage == "implicit":
        found["hidden"] = hidden_numbers(model, watched_rows)
        if model.settings.iterations:
            found["hidden, exchanged"] = hidden_numbers(model, watched_rows, exchanged=True)
    for control in (None, "shuffled", "zeroed"):
        if control is None or (options.stage == "implicit" and model.settings.iterations):
            found[f"accuracy{'' if control is None else ', ' + control}"] = accuracy(model, tested, control)
    if options.save:
        model.save_pretrained(options.save)
    print(json.dumps({name: value for name, value in found.items() if name != "curve"}), flush=True)
    with options.ledger.open("a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")


def frozen_teacher(start: str | None, settings: Settings) -> SpiralThinkerModel | None:
    if start is None or settings.method.teacher == "live":
        return None
    return SpiralThinkerModel.from_pretrained(start, dtype="float32").eval().requires_grad_(False)


def accuracy(model: SpiralThinkerModel, problems: Sequence[Problem], control: Any) -> float:
    """Of whole responses, greedily decoded."""
    generator = LatentGenerator(model, max_new_tokens=120, max_tokens_per_batch=32768)
    if control is not None:
        exchange(generator, control)
    loaded = LoadedBenchmark("chains", "test", tuple(problems), None, "", chains.VERSION, {})
    return round(evaluate_latent(generator, loaded).result.accuracy, 4)


# ------------------------------------------------------------------------------------------------ generation, training


class Recording(LatentGenerator):
    """Keeps the logits that each token of a response was chosen by."""

    def __init__(self, model: SpiralThinkerModel) -> None:
        super().__init__(model, max_new_tokens=120, max_tokens_per_batch=32768)
        self.seen: dict[int, list[Tensor]] = {}

    def choose(self, logits_BV: Tensor, responses: Any) -> list[int]:
        for response, logits_V in zip(responses, logits_BV, strict=True):
            self.seen.setdefault(response.index, []).append(logits_V.clone())
        return super().choose(logits_BV, responses)


@torch.no_grad()
def agree(options: argparse.Namespace) -> None:
    model = SpiralThinkerModel.from_pretrained(options.model, dtype="float32").eval()
    latents, markers = model.settings.annotation.latents, model.markers
    prompts = [model.settings.annotation.prompt_ids(model.tokenizer, p) for p in chains.generate("test", options.test)]
    generator = Recording(model)
    responses = [found[0].token_ids for found in generator.sample(prompts, 1)]
    furthest, tokens = 0.0, 0
    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        ids = [*prompt, *response]
        row = {
            "input_ids": ids, "labels": ids, "bols": [place for place, token in enumerate(ids) if token == markers.bol],
            "prompt_length": len(prompt), "explicit_ids": ids[:1], "eots": [],
        }  # fmt: skip
        batch = lay_out([row], latents=latents, pad_token_id=0)
        logits_TV = model.head()(read(model, batch, exchanged=False)[0, batch["mask"][0].bool()])
        runtime = {markers.latent, markers.eol}
        chosen = [place for place in range(len(prompt), len(ids)) if ids[place] not in runtime]
        for place, seen_V in zip([*chosen, len(ids)], generator.seen[index], strict=True):
            furthest = max(furthest, float((logits_TV[place - 1] - seen_V).abs().max()))
            tokens += 1
    print(f"{len(prompts)} responses, {tokens} chosen tokens; largest difference of a logit: {furthest:.2g}")


# ------------------------------------------------------------------------------------------------ the pretrained model


@torch.no_grad()
def skills(options: argparse.Namespace) -> None:
    """How often embedded@1 has the right number as its next token, in ways of writing that it was pretrained on."""
    model, tokenizer = load_policy("embedded@1", dtype="float32").eval(), load_tokenizer("embedded@1")
    problems = chains.generate("test", options.test)

    def result(step: str) -> str:
        return step.strip("<>").partition("=")[2]

    def pair(problem: Problem) -> str:
        first, second = (step.strip("<>").partition("=")[0] for step in problem.steps[:2])
        sign_and_operand = second.removeprefix(result(problem.steps[0]))
        bracketed = sign_and_operand[0] in "*/" and not set(first) & set("*/")
        return f"({first}){sign_and_operand}=" if bracketed else f"{first}{sign_and_operand}="

    ways: dict[str, tuple[Callable[[Problem], str], Callable[[Problem], str]]] = {
        "step 1, its own operation written": (
            lambda p: p.steps[0].strip("<>").partition("=")[0] + "=",
            lambda p: result(p.steps[0]),
        ),
        "first operand of step 2, behind step 1": (
            lambda p: p.steps[0].strip("<>") + ". ",
            lambda p: result(p.steps[0]),
        ),
        "step 2, the result of step 1 not written": (pair, lambda p: result(p.steps[1])),
        "answer, nothing written": (lambda p: r"It is \boxed{", lambda p: p.answer),
    }
    for template in (PROMPT_TEMPLATE, "{question}"):
        for name, (written, wanted) in ways.items():
            right = 0
            for problem in problems:
                ids = chat.render_prompt(tokenizer, chat.fill(template, question=problem.prompt_text()))
                ids = [*ids, *tokenizer(written(problem), add_special_tokens=False)["input_ids"]]
                choice = model(torch.tensor([ids])).logits[0, -1].argmax()
                right += tokenizer.decode([int(choice)]) == wanted(problem)
            print(f"{100 * right / len(problems):5.1f} %  {name}  [{template}]", flush=True)


# ------------------------------------------------------------------------------------------------ command


def table(options: argparse.Namespace) -> None:
    """Every line of the ledger, in Markdown; figures in %."""
    columns = ("hidden, first", "hidden, later", "of another", "accuracy", "shuffled", "zeroed")
    print(
        "| training | seed | steps | examples | s | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 5) + "|"
    )
    for line in options.ledger.read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        hidden, other = run.get("hidden", {}), run.get("hidden, exchanged", {})
        values = [
            hidden.get("first"), hidden.get("later"), other.get("first"),
            *(run.get(name) for name in ("accuracy", "accuracy, shuffled", "accuracy, zeroed")),
        ]  # fmt: skip
        figures = ["" if value is None else f"{100 * value:.1f}" for value in values]
        names = [run["name"], run["seed"], run["steps"], run["examples"], run["seconds"] or ""]
        print("| " + " | ".join(map(str, [*names, *figures])) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("train")
    verb.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")
    verb.add_argument("--name", default="", help="of the line in the ledger")
    verb.add_argument("--stage", choices=("explicit", "implicit"), default="implicit")
    verb.add_argument("--start", help="folder of a model that --save wrote; without it, embedded@1")
    verb.add_argument("--save", help="folder for the trained model")
    verb.add_argument("--first-only", action="store_true")
    verb.add_argument("--fit", type=int, metavar="N")
    verb.add_argument("--every", type=int, default=50, metavar="STEPS", help="measure so often")
    verb.add_argument("--test", type=int, default=300, help="test problems")
    verb.add_argument("--seed", type=int, default=1)
    verb.add_argument("--ledger", type=Path, default=LEDGER)
    verb.set_defaults(run=train)
    verb = verbs.add_parser("table")
    verb.add_argument("--ledger", type=Path, default=LEDGER)
    verb.set_defaults(run=table)
    verb = verbs.add_parser("skills")
    verb.add_argument("--test", type=int, default=400)
    verb.set_defaults(run=skills)
    verb = verbs.add_parser("agree")
    verb.add_argument("model")
    verb.add_argument("--test", type=int, default=50)
    verb.set_defaults(run=agree)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.run(options)


if __name__ == "__main__":
    main()
