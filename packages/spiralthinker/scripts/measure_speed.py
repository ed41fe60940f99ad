"""What iterated latent steps cost, in training and in generation, each against its comparator, in one run.

    python packages/spiralthinker/scripts/measure_speed.py training --threads 2
    python packages/spiralthinker/scripts/measure_speed.py training --threads 2 --lora
    python packages/spiralthinker/scripts/measure_speed.py generation --threads 2
    python packages/spiralthinker/scripts/measure_speed.py growth --threads 2

The model has random weights and at least 100 M parameters, so that forwards dominate. The arms of a comparison take
turns; a ratio is the median over the rounds of (arm / comparator in the same round), with the least and the greatest.
"gradients at once" leaves `deferred` out. The rows of a batch have equal lengths: what padding costs is not measured.

training    A step is forward and backward. plain: explicit chain-of-thought fine-tuning on the same examples.
            The token-pass bound is (plain's seconds / plain's token passes) x (the student's token passes + the
            teacher's / 3): a forward without gradient is a third of a forward and backward.
generation  Against Coconut-style decoding (batch 1, no cache: the whole sequence again for every token and iteration),
            and against cached Hugging Face generation of an explicit chain, a token of the response at a time.
growth      Seconds and token passes of a training step against N, K, the number of latent steps and the prompt length.
"""

import argparse
import contextlib
import dataclasses
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
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
from spiralthinker.model import SpiralThinkerModel
from spiralthinker.trainer import SpiralThinkerTrainer
from thinker_common.training.sections import LoraSettings

clock: Callable[[], float] = time.perf_counter  # --clock cpu: time.process_time, for a machine that is shared
WORDS = 8_000
N = K = 5
NEAR_TIE = 1e-4  # between the two best logits


class Lengths(NamedTuple):
    """Tokens of the prompt, of each of the steps (without markers), and of the answer."""

    prompt: int
    steps: int
    step: int
    answer: int


SHAPES = {"gsm8k-aug": Lengths(60, 3, 9, 6), "prosqa": Lengths(300, 4, 9, 8)}


def make_model(*, lora: bool = False) -> SpiralThinkerModel:
    torch.manual_seed(0)
    vocabulary = {"<pad>": 0, "<eos>": 1, "?": 2, **{f"w{number}": number + 3 for number in range(WORDS)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="?")
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=768, intermediate_size=2560, num_hidden_layers=12,
        num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=2048, pad_token_id=0,
        bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    settings = Settings(method=MethodSettings(latents=N, iterations=K)).latent_settings()
    adapter = LoraSettings(r=64, alpha=32) if lora else None
    return SpiralThinkerModel.from_base(LlamaForCausalLM(config), tokenizer, settings, lora=adapter)


def example(lengths: Lengths, number: int, model: SpiralThinkerModel) -> Example:
    draw = torch.Generator().manual_seed(number)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, WORDS, (count,), generator=draw).tolist())

    odd = model.settings.annotation.parity == "odd"
    steps = tuple(
        Step(place, "", ids(lengths.step), latent=(place % 2 == 1) == odd) for place in range(1, lengths.steps + 1)
    )
    return Example(str(number), ids(lengths.prompt), steps, (*ids(lengths.answer - 1), 1))


class Arm:
    """Training steps of one kind. token_passes: of a step, (student, teacher)."""

    def __init__(
        self, model: SpiralThinkerModel, lengths: Lengths, rows: int, *, explicit: bool = False, deferred: bool = True
    ) -> None:
        examples = [example(lengths, number, model) for number in range(rows)]
        annotation = model.settings.annotation
        made = [
            explicit_row(each, model.markers) if explicit else implicit_row(annotation, each, model.markers)
            for each in examples
        ]
        self.model, self.deferred = model, deferred
        self.trainer = SpiralThinkerTrainer(
            model,
            TrainingArguments(
                output_dir=tempfile.mkdtemp(), per_device_train_batch_size=rows, use_cpu=True, report_to="none",
                disable_tqdm=True,
            ),
            made,
            MethodSettings(latents=annotation.latents, iterations=model.settings.iterations),
            stage="explicit" if explicit else "implicit",
        )  # fmt: skip
        batches = iter(self.trainer.get_train_dataloader())
        [self.batch], self.totals = self.trainer.get_batch_samples(batches, 1, torch.device("cpu"))
        self.trainer.model_wrapped = self.trainer.model
        teacher = 0 if explicit else int(self.batch["explicit_mask"].sum())
        self.token_passes = (self._passes() - teacher, teacher)

    def _passes(self) -> int:
        self.trainer._noted = {}
        self.step()
        return int(self.trainer._noted["token_passes"][0])

    def step(self) -> float:
        """Seconds of a forward and backward."""
        self.model.train()
        trainer.deferred_weights = deferred_weights if self.deferred else contextlib.nullcontext
        began = clock()
        loss = self.trainer.compute_loss(self.trainer.model, dict(self.batch), num_items_in_batch=self.totals)
        loss.backward()
        seconds = clock() - began
        self.model.zero_grad(set_to_none=True)
        return seconds


def in_turns(arms: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            seconds[name].append(arm())
    return seconds


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def training(shapes: list[str], rounds: int, rows: dict[str, int], lora: bool) -> None:
    model = make_model(lora=lora)
    print(f"{parameters(model)}{', LoRA' if lora else ''}")
    simultaneous = dataclasses.replace(model.settings, schedule="simultaneous")
    for shape in shapes:
        lengths = SHAPES[shape]
        print(f"\n{shape}: {lengths}, {rows[shape]} rows")
        arms = {
            "plain": Arm(model, lengths, rows[shape], explicit=True),
            "sequential": Arm(model, lengths, rows[shape]),
            "sequential, gradients at once": Arm(model, lengths, rows[shape], deferred=False),
            "simultaneous": Arm(SpiralThinkerModel(model.base, model.tokenizer, simultaneous), lengths, rows[shape]),
        }
        measured = in_turns({name: arm.step for name, arm in arms.items()}, rounds)
        plain_passes = arms["plain"].token_passes[0]
        for name, arm in arms.items():
            student, teacher = arm.token_passes
            ratios = [mine / plain for mine, plain in zip(measured[name], measured["plain"], strict=True)]
            bound = (student + teacher / 3) / plain_passes
            print(
                f"{name}: {statistics.median(measured[name]):.2f} s a step, "
                f"token passes {student} + teacher {teacher}; time / plain {spread(ratios)}; "
                f"token-pass bound / plain {bound:.2f}; time / bound {spread([ratio / bound for ratio in ratios])}"
            )


class Forced(LatentGenerator):
    """Takes a latent step at given places of the response, and else the best word; counts near-ties."""

    near_ties = 0

    def __init__(self, *args: Any, plan: set[int], end: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.plan, self.end = plan, end

    def choose(self, logits_BV: torch.Tensor, responses: Any) -> list[int]:
        return [self.token(row, len(response.token_ids)) for row, response in zip(logits_BV, responses, strict=True)]

    def token(self, logits_V: torch.Tensor, written: int) -> int:
        if written in self.plan:
            return self.model.markers.bol
        if written == self.end:
            return 1
        best = logits_V[3 : WORDS + 3].topk(2)
        self.near_ties += int(best.values[0] - best.values[1] < NEAR_TIE)
        return int(best.indices[0]) + 3


@torch.no_grad()
def coconut_style(model: SpiralThinkerModel, prompt: list[int], forced: Forced) -> list[int]:
    """One response, without a cache: the whole sequence again for every token and every iteration."""
    markers, latents = model.markers, model.settings.annotation.latents
    decoder, head = model.base.get_decoder(), model.head()
    embeds = model.embed(torch.tensor([prompt]))
    written: list[int] = []
    while True:
        states = decoder(inputs_embeds=embeds, use_cache=False).last_hidden_state
        token = forced.token(head(states[:, -1])[0], len(written))
        if token == 1:
            return written
        block = [markers.bol, *[markers.latent] * latents, markers.eol] if token == markers.bol else [token]
        written += block
        embeds = torch.cat([embeds, model.embed(torch.tensor([block]))], dim=1)
        if token == markers.bol:
            for _ in range(model.settings.iterations):
                states = decoder(inputs_embeds=embeds, use_cache=False).last_hidden_state
                embeds[:, -latents - 1 : -1] = model.refine(states[:, -latents - 1 : -1])


class Answers:
    """The same prompts answered in three ways; every method returns seconds for all of them."""

    def __init__(self, lengths: Lengths, batch: int) -> None:
        self.model = make_model().eval()
        self.prompts = [list(example(lengths, number, self.model).prompt_ids) for number in range(batch)]
        text = lengths.step + 2
        self.explicit_tokens = lengths.steps * text + lengths.answer
        self.plan, place = set(), 0
        for step in range(1, lengths.steps + 1):
            if step % 2 == 1:
                self.plan.add(place)
            place += N + 2 if step % 2 == 1 else text
        self.tokens = place + lengths.answer
        self.found: list[tuple[int, ...]] = []
        self.token_passes = self.near_ties = 0

    def forced(self) -> Forced:
        room = {"max_new_tokens": self.tokens + 2, "max_tokens_per_batch": 10**6}
        return Forced(self.model, plan=self.plan, end=self.tokens, **room)

    def ours(self) -> float:
        forced = self.forced()
        began = clock()
        made = forced.generate(self.prompts)
        seconds = clock() - began
        self.found = [tuple(response.token_ids) for response in made]
        self.token_passes = forced.token_passes
        return seconds

    @torch.no_grad()
    def explicit(self) -> float:
        ids = torch.tensor(self.prompts)
        count = self.explicit_tokens
        began = clock()
        self.model.causal.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False
        )
        return clock() - began

    def uncached(self, responses: int) -> float:
        """Of so many responses, times what all of them would take."""
        forced = self.forced()
        began = clock()
        found = [tuple(coconut_style(self.model, prompt, forced)) for prompt in self.prompts[:responses]]
        seconds = clock() - began
        same = sum(mine == theirs for mine, theirs in zip(self.found, found, strict=False))
        print(f"same outputs as Coconut-style: {same} of {responses}, {forced.near_ties} near-ties")
        return seconds / responses * len(self.prompts)


def generation(rounds: int, batch: int, uncached: int) -> None:
    for shape, lengths in SHAPES.items():
        answers = Answers(lengths, batch)
        print(f"\n{shape}: {lengths}, batch {batch}, {parameters(answers.model)}")
        print(
            f"response: {answers.tokens} tokens, {len(answers.plan)} latent steps; explicit chain: "
            f"{answers.explicit_tokens} tokens"
        )
        answers.ours()  # the first is slower
        measured = in_turns({"ours": answers.ours, "explicit": answers.explicit}, rounds)
        ours, explicit = measured["ours"], measured["explicit"]
        slow = answers.uncached(uncached)
        print(f"token passes of ours: {answers.token_passes / batch:.0f} a response")
        print(
            f"{batch} responses: ours {statistics.median(ours):.2f} s, cached explicit chain "
            f"{statistics.median(explicit):.2f} s, Coconut-style {slow:.1f} s (from {uncached})"
        )
        print(f"Coconut-style / ours: {spread([slow / mine for mine in ours])}")
        shares = [mine / theirs for mine, theirs in zip(ours, explicit, strict=True)]
        each = [share * answers.explicit_tokens / answers.tokens for share in shares]
        print(f"time a token of the response / explicit chain's: {spread(each)}")
        print(f"time of a whole response / explicit chain's: {spread(shares)}")


def growth(rounds: int, rows: int) -> None:
    base = SHAPES["gsm8k-aug"]
    cases: list[tuple[str, Lengths, dict[str, Any]]] = [
        *((f"N = {n}", base, {"latents": n}) for n in (1, 5, 10)),
        *((f"K = {k}", base, {"iterations": k}) for k in (0, 1, 5, 10)),
        *((f"{(steps + 1) // 2} latent steps", base._replace(steps=steps), {}) for steps in (1, 3, 7)),
        *((f"prompt of {prompt}", base._replace(prompt=prompt), {}) for prompt in (60, 150, 300)),
    ]
    print("| case | plain s | sequential s | ratio | token passes / plain's |\n|---|---|---|---|---|")
    base_model = make_model()
    for name, lengths, method in cases:
        settings = Settings(method=MethodSettings(**{"latents": N, "iterations": K, **method})).latent_settings()
        model = SpiralThinkerModel(base_model.base, base_model.tokenizer, settings)
        plain, ours = Arm(model, lengths, rows, explicit=True), Arm(model, lengths, rows)
        measured = in_turns({"plain": plain.step, "ours": ours.step}, rounds)
        ratios = [mine / theirs for mine, theirs in zip(measured["ours"], measured["plain"], strict=True)]
        passes = sum(ours.token_passes) / plain.token_passes[0]
        print(
            f"| {name} | {statistics.median(measured['plain']):.2f} | {statistics.median(measured['ours']):.2f} | "
            f"{spread(ratios)} | {passes:.2f} |",
            flush=True,
        )


def parameters(model: SpiralThinkerModel) -> str:
    return f"{sum(p.numel() for p in model.base.parameters()) / 1e6:.0f} M parameters"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("training", "generation", "growth"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: with one thread only")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="of training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=json.loads, default={"gsm8k-aug": 16, "prosqa": 8}, help="of a training batch")
    parser.add_argument("--lora", action="store_true", help="training: low-rank adapters, in all arms")
    parser.add_argument("--batch", type=int, default=16, help="of generation")
    parser.add_argument("--uncached", type=int, default=1, help="responses that are made in the style of Coconut")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.clock == "cpu":
        globals()["clock"] = time.process_time
    print(
        f"torch {torch.__version__}, {platform.machine()}, {options.threads} threads, float32, {options.rounds} rounds"
    )
    if options.what == "training":
        training(options.shapes, options.rounds, options.rows, options.lora)
    elif options.what == "generation":
        generation(options.rounds, options.batch, options.uncached)
    else:
        growth(options.rounds, options.rows["gsm8k-aug"])


if __name__ == "__main__":
    main()
