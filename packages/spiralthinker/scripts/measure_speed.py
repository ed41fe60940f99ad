"""What iterated latent steps cost, in training and in generation, each against its comparator, in one run.

    python packages/spiralthinker/scripts/measure_speed.py training --threads 2
    python packages/spiralthinker/scripts/measure_speed.py training --threads 2 --lora
    python packages/spiralthinker/scripts/measure_speed.py training --threads 2 --accumulation 4
    python packages/spiralthinker/scripts/measure_speed.py generation --threads 2
    python packages/spiralthinker/scripts/measure_speed.py growth --threads 2

The model has random weights and at least 100 M parameters, so that forwards dominate. The arms of a comparison take
turns; a ratio is the median over the rounds of (arm / comparator in the same round), with the least and the greatest.
All arms have done a step, or a whole generation, before the first round. Prompts are ragged: from half to one and a
half of the length that is named, evenly; `--equal-prompts` makes them equal. Token passes are of real tokens, so that
what padding costs is in the time and not in the bound.

training    A step is the forward and backward passes of `--accumulation` batches; the AdamW step behind them is
            measured apart, since it is the same in all arms. plain: explicit chain-of-thought fine-tuning on the same
            examples. "gradients at once" leaves `deferred` out. A forward without gradient counts as a third of a
            forward and backward, so that in plain's seconds for each of its token passes
              bound           is the arm's own student's token passes + its teacher's / 3
              1 + K passes    is (what stands before the first latent, once + 1 + K times what stands behind it up to
                              the end of the row) + the teacher's / 3: the goal of `simultaneous`. "of the part behind
                              alone" leaves out the pass over what stands before it
generation  Against Coconut-style decoding (batch 1, no cache: the whole sequence again for every token and iteration),
            and against cached Hugging Face generation of an explicit chain, by generated token (latents and markers
            are generated tokens here) and by token of text. Every response is compared with Coconut-style's: where they
            differ first, the two best logits have to be within 1e-4 of each other in one of the two (a near-tie).
            Otherwise the command ends with an error.
growth      Seconds and token passes of a training step, and seconds of `--batch` responses, against N, K, the number of
            latent steps and the prompt length, for both schedules. Simultaneous decoding keeps K + 1 caches.
"""

import argparse
import contextlib
import dataclasses
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainingArguments

from spiralthinker import trainer
from spiralthinker.annotation import Example, Step
from spiralthinker.columns import explicit_row, implicit_row
from spiralthinker.config import MethodSettings, Settings
from spiralthinker.deferred import deferred_weights
from spiralthinker.generation import LatentGenerator
from spiralthinker.iteration import Schedule
from spiralthinker.model import SpiralThinkerModel
from spiralthinker.trainer import SpiralThinkerTrainer
from thinker_common.training.sections import LoraSettings

clock: Callable[[], float] = time.perf_counter  # --clock cpu: time.process_time, for a machine that is shared
WORDS = 8_000
MODEL = {"hidden_size": 768, "intermediate_size": 2560, "num_hidden_layers": 12, "num_attention_heads": 12}
N = K = 5
NEAR_TIE = 1e-4  # between the two best logits
OPTIMISER = "optimiser"


class Lengths(NamedTuple):
    """Tokens of the prompt, of each of the steps (without markers), and of the answer."""

    prompt: int
    steps: int
    step: int
    answer: int

    def ragged(self, number: int, rows: int) -> "Lengths":
        """Those of one of so many rows, whose mean they are."""
        share = number / (rows - 1) if rows > 1 else 0.5
        return self._replace(prompt=max(1, round(self.prompt * (0.5 + share))))


SHAPES = {"gsm8k-aug": Lengths(60, 3, 9, 6), "prosqa": Lengths(300, 4, 9, 8)}


def make_model(*, lora: bool = False) -> SpiralThinkerModel:
    torch.manual_seed(0)
    vocabulary = {"<pad>": 0, "<eos>": 1, "?": 2, **{f"w{number}": number + 3 for number in range(WORDS)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="?")
    config = LlamaConfig(
        **MODEL, num_key_value_heads=MODEL["num_attention_heads"], vocab_size=len(vocabulary), pad_token_id=0,
        max_position_embeddings=2048, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    settings = Settings(method=MethodSettings(latents=N, iterations=K)).latent_settings()
    adapter = LoraSettings(r=64, alpha=32) if lora else None
    return SpiralThinkerModel.from_base(LlamaForCausalLM(config), tokenizer, settings, lora=adapter)


def with_method(model: SpiralThinkerModel, schedule: Schedule = "sequential", **method: int) -> SpiralThinkerModel:
    """The same weights with another schedule, N or K."""
    settings = Settings(method=MethodSettings(**{"latents": N, "iterations": K, **method})).latent_settings()  # type: ignore[arg-type]
    return SpiralThinkerModel(model.base, model.tokenizer, dataclasses.replace(settings, schedule=schedule))


def examples(lengths: Lengths, rows: int, model: SpiralThinkerModel, *, ragged: bool) -> list[Example]:
    return [example(lengths.ragged(row, rows) if ragged else lengths, row, model) for row in range(rows)]


def example(lengths: Lengths, number: int, model: SpiralThinkerModel) -> Example:
    draw = torch.Generator().manual_seed(number)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, WORDS, (count,), generator=draw).tolist())

    odd = model.settings.annotation.parity == "odd"
    steps = tuple(
        Step(place, "", ids(lengths.step), latent=(place % 2 == 1) == odd) for place in range(1, lengths.steps + 1)
    )
    return Example(str(number), ids(lengths.prompt), steps, (*ids(lengths.answer - 1), 1))


# ------------------------------------------------------------------------------------------------ training


class Arm:
    """Training steps of one kind.

    token_passes: of a step, (student, teacher). passes_of_goal: 1 + K passes, (of all, of the part behind alone).
    """

    def __init__(
        self,
        model: SpiralThinkerModel,
        lengths: Lengths,
        rows: int,
        *,
        ragged: bool,
        accumulation: int = 1,
        optimiser: torch.optim.Optimizer | None = None,
        explicit: bool = False,
        deferred: bool = True,
    ) -> None:
        annotation = model.settings.annotation
        made = [
            explicit_row(each, model.markers) if explicit else implicit_row(annotation, each, model.markers)
            for each in examples(lengths, rows * accumulation, model, ragged=ragged)
        ]
        self.model, self.deferred, self.accumulation, self.optimiser = model, deferred, accumulation, optimiser
        self.trainer = SpiralThinkerTrainer(
            model,
            TrainingArguments(
                output_dir=tempfile.mkdtemp(), per_device_train_batch_size=rows, use_cpu=True, report_to="none",
                disable_tqdm=True, gradient_accumulation_steps=accumulation,
            ),
            made,
            MethodSettings(latents=annotation.latents, iterations=model.settings.iterations),
            stage="explicit" if explicit else "implicit",
        )  # fmt: skip
        batches = iter(self.trainer.get_train_dataloader())
        self.batches = [next(batches) for _ in range(accumulation)]
        self.trainer.model_wrapped = self.trainer.model
        with torch.no_grad():
            student = sum(model(dict(batch))[1] for batch in self.batches)
        self.trainer._noted = {}
        self.step()
        self.token_passes = (student, int(self.trainer._noted["token_passes"][0]) - student)
        self.passes_of_goal = (0, 0)
        if not explicit:
            firsts = [row["bols"][0] + 1 for row in made]
            behind = (1 + model.settings.iterations) * sum(
                len(row["input_ids"]) - first for row, first in zip(made, firsts, strict=True)
            )
            self.passes_of_goal = (sum(firsts) + behind, behind)

    def step(self) -> dict[str, float]:
        """Seconds of the forward and backward passes, and of the optimiser's step."""
        trainer.deferred_weights = deferred_weights if self.deferred else contextlib.nullcontext
        copies = iter([dict(batch) for batch in self.batches])  # a teacher's states are put into them
        batches, totals = self.trainer.get_batch_samples(copies, self.accumulation, torch.device("cpu"))
        began = clock()
        for batch in batches:
            self.trainer.training_step(self.trainer.model, batch, totals)
        passed = clock()
        if self.optimiser is not None:
            self.optimiser.step()
        done = clock()
        self.model.zero_grad(set_to_none=True)
        return {"passes": passed - began, OPTIMISER: done - passed}


def in_turns(arms: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            found[name].append(arm())
    return found


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def goal(name: str, values: Sequence[float], *, limit: float, least: bool = False) -> None:
    """Says whether the median is at most (or at least) what is wanted."""
    median = statistics.median(values)
    met = median >= limit if least else median <= limit
    print(f"goal: {name}: {'at least' if least else 'at most'} {limit}: {spread(values)}: {'met' if met else 'missed'}")


def training(
    shapes: list[str], rounds: int, rows: dict[str, int], *, lora: bool, accumulation: int, ragged: bool
) -> None:
    model = make_model(lora=lora)
    weights = [weight for weight in model.base.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=0.0)  # the same time, and all arms keep the same weights
    print(f"{parameters(model)}{', LoRA' if lora else ''}, {accumulation} batches a step")
    simultaneous = with_method(model, "simultaneous")
    for shape in shapes:
        lengths, count = SHAPES[shape], rows[shape]
        print(f"\n{shape}: {lengths}, {count} rows a batch, {'ragged' if ragged else 'equal'} prompts")
        given: dict[str, Any] = {"ragged": ragged, "accumulation": accumulation, "optimiser": optimiser}
        arms = {
            "plain": Arm(model, lengths, count, explicit=True, **given),
            "sequential": Arm(model, lengths, count, **given),
            "sequential, gradients at once": Arm(model, lengths, count, deferred=False, **given),
            "simultaneous": Arm(simultaneous, lengths, count, **given),
        }
        measured = in_turns({name: arm.step for name, arm in arms.items()}, rounds)
        seconds = {name: [each["passes"] for each in found] for name, found in measured.items()}
        whole = {name: [sum(each.values()) for each in found] for name, found in measured.items()}
        plain_passes = arms["plain"].token_passes[0]
        ratios: dict[str, list[float]] = {}
        bounds: dict[str, float] = {}
        for name, arm in arms.items():
            student, teacher = arm.token_passes
            ratios[name] = _ratios(seconds[name], seconds["plain"])
            bounds[name] = (student + teacher / 3) / plain_passes
            print(
                f"{name}: {statistics.median(seconds[name]):.2f} s a step (+ optimiser "
                f"{statistics.median(each[OPTIMISER] for each in measured[name]):.2f}), "
                f"token passes {student} + teacher {teacher}; time / plain {spread(ratios[name])}, with the optimiser "
                f"{spread(_ratios(whole[name], whole['plain']))}; bound / plain {bounds[name]:.2f}; "
                f"time / bound {spread([ratio / bounds[name] for ratio in ratios[name]])}"
            )
        goal(
            "sequential / token-pass bound",
            [ratio / bounds["sequential"] for ratio in ratios["sequential"]],
            limit=1.25,
        )
        if shape == "prosqa":
            goal("sequential / plain step", ratios["sequential"], limit=1.5)
        arm = arms["simultaneous"]
        for name, passes in zip(("", ", of the part behind alone"), arm.passes_of_goal, strict=True):
            wanted = (passes + arm.token_passes[1] / 3) / plain_passes
            goal(
                f"simultaneous / (1 + K passes{name}, {wanted:.2f} times plain)",
                [ratio / wanted for ratio in ratios["simultaneous"]],
                limit=1,
            )


def _ratios(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(mine, theirs, strict=True)]


# ------------------------------------------------------------------------------------------------ generation


class Forced(LatentGenerator):
    """Takes a latent step at given places of the response, and else the best word.

    gaps: between the two best logits, by (response, place)
    """

    def __init__(self, *args: Any, plan: set[int], end: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.plan, self.end = plan, end
        self.gaps: dict[tuple[int, int], float] = {}

    def choose(self, logits_BV: torch.Tensor, responses: Any) -> list[int]:
        return [
            self.token(row, response.index, len(response.token_ids))
            for row, response in zip(logits_BV, responses, strict=True)
        ]

    def token(self, logits_V: torch.Tensor, response: int, place: int) -> int:
        if place in self.plan:
            return self.model.markers.bol
        if place == self.end:
            return 1
        best = logits_V[3 : WORDS + 3].topk(2)
        self.gaps[response, place] = float(best.values[0] - best.values[1])
        return int(best.indices[0]) + 3


@torch.no_grad()
def coconut_style(model: SpiralThinkerModel, prompt: list[int], forced: Forced, response: int) -> list[int]:
    """One response, without a cache: the whole sequence again for every token and every iteration."""
    markers, latents = model.markers, model.settings.annotation.latents
    decoder, head = model.base.get_decoder(), model.head()
    embeds = model.embed(torch.tensor([prompt]))
    written: list[int] = []
    while True:
        states = decoder(inputs_embeds=embeds, use_cache=False).last_hidden_state
        token = forced.token(head(states[:, -1])[0], response, len(written))
        if token == 1:
            return written
        block = [markers.bol, *[markers.latent] * latents, markers.eol] if token == markers.bol else [token]
        written += block
        embeds = torch.cat([embeds, model.embed(torch.tensor([block]))], dim=1)
        if token == markers.bol:
            for _ in range(model.settings.iterations):
                states = decoder(inputs_embeds=embeds, use_cache=False).last_hidden_state
                embeds[:, -latents - 1 : -1] = model.refine(states[:, -latents - 1 : -1])


def compare(
    ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]], gaps: Sequence[dict[tuple[int, int], float]]
) -> tuple[int, list[str]]:
    """How many responses are the same, and which differ although there is no near-tie where they first do."""
    same, unexplained = 0, []
    for response, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if list(one) == list(other):
            same += 1
            continue
        place = next(
            (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
        )
        gap = min(found.get((response, place), float("inf")) for found in gaps)
        if gap >= NEAR_TIE:
            unexplained.append(f"response {response} at token {place}, the two best logits {gap:.2g} apart")
    return same, unexplained


class Answers:
    """The same prompts answered in three ways; every method returns seconds for all of them."""

    def __init__(self, model: SpiralThinkerModel, lengths: Lengths, batch: int, *, ragged: bool) -> None:
        self.model = model.eval()
        self.prompts = [list(each.prompt_ids) for each in examples(lengths, batch, model, ragged=ragged)]
        text, latents = lengths.step + 2, model.settings.annotation.latents
        self.explicit_tokens = lengths.steps * text + lengths.answer
        self.plan, place = set(), 0
        for step in range(1, lengths.steps + 1):
            if step % 2 == 1:
                self.plan.add(place)
            place += latents + 2 if step % 2 == 1 else text
        self.tokens = place + lengths.answer
        self.text_tokens = self.tokens - len(self.plan) * (latents + 2)
        self.found: list[list[int]] = []
        self.gaps: dict[tuple[int, int], float] = {}
        self.token_passes = 0

    def forced(self) -> Forced:
        room = {"max_new_tokens": self.tokens + 2, "max_tokens_per_batch": 10**6}
        return Forced(self.model, plan=self.plan, end=self.tokens, **room)

    def ours(self) -> float:
        forced = self.forced()
        began = clock()
        made = forced.generate(self.prompts)
        seconds = clock() - began
        self.found = [list(response.token_ids) for response in made]
        self.gaps, self.token_passes = forced.gaps, forced.token_passes
        return seconds

    @torch.no_grad()
    def explicit(self) -> float:
        """Padded on the left, as transformers wants it."""
        width = max(map(len, self.prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in self.prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in self.prompts])
        count = self.explicit_tokens
        began = clock()
        self.model.causal.generate(
            ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False
        )
        return clock() - began

    def uncached(self, responses: int) -> float:
        """Of so many responses, times what all of them would take.

        Raises:
            SystemExit: one differs from ours without a near-tie.
        """
        forced = self.forced()
        began = clock()
        found = [
            coconut_style(self.model, prompt, forced, number) for number, prompt in enumerate(self.prompts[:responses])
        ]
        seconds = clock() - began
        same, unexplained = compare(self.found[:responses], found, (self.gaps, forced.gaps))
        near_ties = sum(gap < NEAR_TIE for (number, _), gap in self.gaps.items() if number < responses)
        print(
            f"same outputs as Coconut-style: {same} of {responses}; near-ties: {near_ties} of "
            f"{sum(number < responses for number, _ in self.gaps)} chosen tokens"
        )
        if unexplained:
            raise SystemExit("outputs differ from Coconut-style where there is no near-tie: " + "; ".join(unexplained))
        return seconds / responses * len(self.prompts)


def generation(shapes: list[str], rounds: int, batch: int, uncached: int | None, *, ragged: bool) -> None:
    model = make_model()
    for shape in shapes:
        lengths = SHAPES[shape]
        answers = Answers(model, lengths, batch, ragged=ragged)
        print(
            f"\n{shape}: {lengths}, batch {batch}, {'ragged' if ragged else 'equal'} prompts, {parameters(model)}\n"
            f"response: {answers.tokens} tokens, {answers.text_tokens} of them text, {len(answers.plan)} latent steps; "
            f"explicit chain: {answers.explicit_tokens} tokens"
        )
        arms = {"ours": answers.ours, "explicit": answers.explicit}
        in_turns(arms, 1)  # the first is slower
        measured = in_turns(arms, rounds)
        ours, explicit = measured["ours"], measured["explicit"]
        count = batch if uncached is None else min(uncached, batch)
        slow = answers.uncached(count)
        print(
            f"token passes of ours: {answers.token_passes / batch:.0f} a response\n"
            f"{batch} responses: ours {statistics.median(ours):.2f} s, cached explicit chain "
            f"{statistics.median(explicit):.2f} s, Coconut-style {slow:.1f} s (from {count})"
        )
        goal("Coconut-style / ours", [slow / mine for mine in ours], limit=10, least=True)
        shares = _ratios(ours, explicit)
        each = [share * answers.explicit_tokens / answers.tokens for share in shares]
        goal("time a generated token / explicit chain's", each, limit=1.3)
        by_text = [share * answers.explicit_tokens / answers.text_tokens for share in shares]
        print(f"time a token of text / explicit chain's: {spread(by_text)}")
        print(f"time of a whole response / explicit chain's: {spread(shares)}")


# ------------------------------------------------------------------------------------------------ growth

CASES: list[tuple[str, Lengths, dict[str, int]]] = [
    *((f"N = {n}", SHAPES["gsm8k-aug"], {"latents": n}) for n in (1, 5, 10)),
    *((f"K = {k}", SHAPES["gsm8k-aug"], {"iterations": k}) for k in (0, 1, 5, 10)),
    *(
        (f"{(steps + 1) // 2} latent steps", SHAPES["gsm8k-aug"]._replace(steps=steps), dict[str, int]())
        for steps in (1, 3, 7)
    ),
    *(
        (f"prompt of {prompt}", SHAPES["gsm8k-aug"]._replace(prompt=prompt), dict[str, int]())
        for prompt in (60, 150, 300)
    ),
]
BOTH: tuple[Schedule, ...] = ("sequential", "simultaneous")


def growth(rounds: int, rows: int, batch: int, *, ragged: bool) -> None:
    base = make_model()
    print(f"a training step of {rows} rows\n")
    print(
        "| case | plain s | sequential s | / plain | token passes / plain's | simultaneous s | / plain "
        "| token passes / plain's |\n" + "|---" * 8 + "|"
    )
    for name, lengths, method in CASES:
        plain = Arm(base, lengths, rows, explicit=True, ragged=ragged)
        arms = {each: Arm(with_method(base, each, **method), lengths, rows, ragged=ragged) for each in BOTH}
        measured = in_turns({"plain": plain.step} | {each: arm.step for each, arm in arms.items()}, rounds)
        seconds = {each: [found["passes"] for found in steps] for each, steps in measured.items()}
        cells = [f"{statistics.median(seconds['plain']):.2f}"]
        for each, arm in arms.items():
            cells += [
                f"{statistics.median(seconds[each]):.2f}",
                spread(_ratios(seconds[each], seconds["plain"])),
                f"{sum(arm.token_passes) / plain.token_passes[0]:.2f}",
            ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\n{batch} responses\n")
    print(
        "| case | explicit chain s | sequential s | / explicit | token passes a response | simultaneous s | / explicit "
        "| token passes a response |\n" + "|---" * 8 + "|"
    )
    for name, lengths, method in CASES:
        answers = {each: Answers(with_method(base, each, **method), lengths, batch, ragged=ragged) for each in BOTH}
        arms_of: dict[str, Callable[[], float]] = {"explicit": answers["sequential"].explicit}
        arms_of |= {each: own.ours for each, own in answers.items()}
        in_turns(arms_of, 1)  # the first is slower
        taken = in_turns(arms_of, rounds)
        cells = [f"{statistics.median(taken['explicit']):.2f}"]
        for each, own in answers.items():
            cells += [
                f"{statistics.median(taken[each]):.2f}",
                spread(_ratios(taken[each], taken["explicit"])),
                f"{own.token_passes / batch:.0f}",
            ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def parameters(model: SpiralThinkerModel) -> str:
    return f"{sum(p.numel() for p in model.base.parameters()) / 1e6:.0f} M parameters"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("training", "generation", "growth"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: with one thread only")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="of training and generation")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=json.loads, default={"gsm8k-aug": 16, "prosqa": 8}, help="of a training batch")
    parser.add_argument("--accumulation", type=int, default=1, help="training: batches of a step")
    parser.add_argument("--equal-prompts", action="store_true", help="all prompts as long as the shape says")
    parser.add_argument("--lora", action="store_true", help="training: low-rank adapters, in all arms")
    parser.add_argument("--batch", type=int, default=16, help="of generation")
    parser.add_argument("--uncached", type=int, help="responses that are made in the style of Coconut; default: all")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.clock == "cpu":
        globals()["clock"] = time.process_time
    print(
        f"torch {torch.__version__}, {platform.machine()}, {options.threads} threads, float32, {options.rounds} rounds"
    )
    ragged = not options.equal_prompts
    if options.what == "training":
        training(
            options.shapes, options.rounds, options.rows,
            lora=options.lora, accumulation=options.accumulation, ragged=ragged,
        )  # fmt: skip
    elif options.what == "generation":
        generation(options.shapes, options.rounds, options.batch, options.uncached, ragged=ragged)
    else:
        growth(options.rounds, options.rows["gsm8k-aug"], options.batch, ragged=ragged)


if __name__ == "__main__":
    main()
