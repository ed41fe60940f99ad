"""Batched generation with a cache: the model writes text, and where it writes `<bol>` the runtime takes a latent step.

Text goes one token at a time, for all running rows. A row that has written `<bol>` waits until every other row has too,
or has ended; then all waiting rows take their latent step together: N latents and `<eol>` are appended, read K + 1
times, and the next token is chosen at `<eol>`. What a row does not take part in is masked in it, and positions count
real tokens: responses do not depend on the batch beyond the rounding of the logits.

Two decodings, after two schedules of `iteration`; each equals the training of its name:

    sequential     a finished latent step is never read again: one cache, in which each iteration replaces the last
                   N + 1 columns.
    simultaneous   at iteration k a latent step sees the earlier ones at iteration k. So there are K + 1 levels, each
                   with keys and values of its own from the first latent on, side by side in the batch dimension. Text
                   is read on all levels at once, a latent step level by level; the last level chooses the tokens.

The autoregressive decoding, of the baselines, reads a latent step's tokens one at a time, each once.

`<latent>` and `<eol>` are the runtime's to write: in text they are never chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from ._common import (
    Generation,
    SettingsError,
    UserError,
    check_context,
    check_decoding,
    check_samples,
    evaluation_mode,
    generation,
    naming_what_to_lower,
    sampling_processors,
    stream_seed,
    token_budget_batches,
)
from .iteration import SCHEDULES, Past, Reading, Schedule
from .model import Reader, SpiralThinkerModel, warn_of_other_numbers

if TYPE_CHECKING:
    from ._common import OnSampled

# B rows, P columns of the prompts, S new columns, T columns so far, N latents, D hidden size, V vocabulary. With levels
# the rows of embeddings, keys and values are levels * B, level by level.

# What a control or a picture does with the input embeddings (B, N, D) of a latent step at iteration 1..K, or with those
# of its N tokens one by one, (B, 1, D) at 1..N, in autoregressive decoding; (B,): which responses they belong to, None
# for rows that take no part.
Intervention = Callable[[Tensor, int, Sequence["Response | None"]], Tensor]


@dataclass(eq=False)
class Response:
    """One sample of one prompt while it grows. `token_ids` hold the latent steps too, but no end-of-sequence token."""

    index: int
    sample: int
    prompt: tuple[int, ...]
    stream: int
    token_ids: list[int] = field(default_factory=list)
    ended: bool = False
    end: int | None = None  # the end-of-sequence token that was chosen
    truncated: bool = False
    waits: bool = False  # for its latent step


class LatentGenerator:
    """Greedy (`temperature` 0) or sampled responses; a `Backend` of the base's evaluation.

    Args:
        model: its settings give N, and K and the decoding unless told otherwise.
        max_new_tokens: of a response, latent steps included.
        iterations: K at test time; another than the model's with a warning.
        decoding: the schedule; sequential and simultaneous can be exchanged for each other.
        max_tokens_per_batch: rows times the longest prompt and response.
        seed: sampled tokens follow from it, the prompt's key and the number of the sample: see the base's `Generator`.
        intervene: changes the latents, for controls; see `Intervention`.
        min_new_tokens: before these no end-of-sequence token is chosen.
        eos_token_ids: what ends a response; default the model's own.
        processors, stopping: transformers' `LogitsProcessor` and `StoppingCriteria`, called for one row at a time, with
            the ids of its prompt and of its response, latent steps included, and no padding.

    Raises:
        SettingsError: impossible values.
    """

    def __init__(
        self,
        model: SpiralThinkerModel,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        iterations: int | None = None,
        decoding: Schedule | None = None,
        max_tokens_per_batch: int = 8192,
        seed: int = 0,
        intervene: Intervention | None = None,
        min_new_tokens: int = 0,
        eos_token_ids: Sequence[int] | None = None,
        processors: Sequence[LogitsProcessor] = (),
        stopping: Sequence[StoppingCriteria] = (),
    ) -> None:
        check_decoding(max_new_tokens, temperature, top_p, top_k)
        if not 0 <= min_new_tokens <= max_new_tokens:
            raise SettingsError(f"min_new_tokens = {min_new_tokens!r}: must be 0 to max_new_tokens, {max_new_tokens}")
        if max_tokens_per_batch < 1:
            raise SettingsError(f"max_tokens_per_batch = {max_tokens_per_batch!r}: must be at least 1")
        self.iterations = model.settings.iterations if iterations is None else iterations
        if self.iterations < 0:
            raise SettingsError(f"iterations = {iterations!r}: must be at least 0")
        self.decoding: Schedule = model.settings.schedule if decoding is None else decoding
        if self.decoding not in SCHEDULES:
            raise SettingsError(f"decoding = {decoding!r}: must be one of {', '.join(SCHEDULES)}")
        if (self.decoding == "autoregressive") != (model.settings.schedule == "autoregressive"):
            raise SettingsError(f"decoding = {decoding!r}: this model was trained {model.settings.schedule}")
        if self.decoding == "autoregressive" and self.iterations > 0:
            raise SettingsError(f"iterations = {self.iterations}: an autoregressive model has none, must be 0")
        warn_of_other_numbers(model.settings, iterations=iterations)
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.max_tokens_per_batch = max_tokens_per_batch
        self.seed = seed
        self.intervene = intervene
        self.min_new_tokens = min_new_tokens
        self.eos = model.eos_token_ids if eos_token_ids is None else set(eos_token_ids)
        self.processors = LogitsProcessorList(processors)
        self.stopping = StoppingCriteriaList(stopping)
        # Of all responses so far; a token pass is one real token in one reading.
        self.responses = self.token_passes = self.latent_tokens = 0

    @property
    def context(self) -> int | None:
        """Tokens of prompt and response together; None without a limit."""
        return self.model.context

    @property
    def module(self) -> Any:
        return self.model.base

    def check_lengths(self, prompt_ids: Sequence[Sequence[int]]) -> None:
        """UserError for a prompt that does not fit with its response, is empty or holds a marker of latent steps."""
        assert all(len(ids) > 0 for ids in prompt_ids), "a prompt has at least one token"
        runtime = {self.model.markers.latent, self.model.markers.eol}
        for number, ids in enumerate(prompt_ids):
            if runtime & set(ids):
                raise UserError(f"prompt {number} holds <latent> or <eol>, which only the runtime writes")
        check_context(max((len(ids) for ids in prompt_ids), default=0), self.max_new_tokens, self.context)

    def generate(self, prompt_ids: Sequence[Sequence[int]], *, keys: Sequence[str] | None = None) -> list[Generation]:
        """One response a prompt, in input order."""
        return [response for (response,) in self.sample(prompt_ids, keys=keys)]

    @torch.no_grad()
    def sample(
        self,
        prompt_ids: Sequence[Sequence[int]],
        samples: int = 1,
        *,
        keys: Sequence[str] | None = None,
        on_batch: OnSampled | None = None,
    ) -> list[list[Generation]]:
        """`samples` responses a prompt, in input order; see the base's `Generator.sample`.

        Raises:
            UserError: as `check_lengths`, and when memory runs out.
            SettingsError: an impossible number of samples.
        """
        finished: dict[int, dict[int, Generation]] = {index: {} for index in range(len(prompt_ids))}
        for together in self._finished(self._begun(prompt_ids, samples, keys)):
            for response in together:
                made = generation(self.model.tokenizer, response.token_ids, truncated=response.truncated)
                finished[response.index][response.sample] = made
            whole = list(dict.fromkeys(r.index for r in together if len(finished[r.index]) == samples))
            if on_batch is not None and whole:
                on_batch(whole, [_in_order(finished[index]) for index in whole])
        return [_in_order(finished[index]) for index in range(len(prompt_ids))]

    @torch.no_grad()
    def respond(self, prompt_ids: Sequence[Sequence[int]], samples: int = 1) -> list[Response]:
        """As `sample`, with how each response ended: all of the first prompt, all of the second, and so on."""
        responses = self._begun(prompt_ids, samples, None)
        for _ in self._finished(responses):
            pass
        return responses

    def _begun(self, prompt_ids: Sequence[Sequence[int]], samples: int, keys: Sequence[str] | None) -> list[Response]:
        check_samples(samples, self.temperature)
        self.check_lengths(prompt_ids)
        names = keys if keys is not None else [repr(list(ids)) for ids in prompt_ids]
        return [
            Response(index, sample, tuple(ids), stream_seed(self.seed, name, sample))
            for index, (ids, name) in enumerate(zip(prompt_ids, names, strict=True))
            for sample in range(samples)
        ]

    def _finished(self, responses: Sequence[Response]) -> Iterator[list[Response]]:
        """Runs them, and yields those that ran together."""
        lengths = [len(response.prompt) + self.max_new_tokens for response in responses]
        with evaluation_mode(self.model):
            for batch in token_budget_batches(lengths, self.max_tokens_per_batch):
                together = [responses[place] for place in batch]
                self._run(together)
                self.responses += len(together)
                self.latent_tokens += sum(r.token_ids.count(self.model.markers.latent) for r in together)
                yield together

    # ------------------------------------------------------------------------------------------------ one batch

    def _run(self, responses: list[Response]) -> None:
        """Until all of these have ended."""
        with naming_what_to_lower(
            f"generating {len(responses)} responses at once",
            f"max_tokens_per_batch (now {self.max_tokens_per_batch}) for fewer of them, or max_new_tokens (now "
            f"{self.max_new_tokens}) for shorter ones",
        ):
            state = _State(self, responses)
            logits_BV = state.read_prompts()
            while True:
                state.take_tokens(logits_BV)
                state.drop_ended()
                if not state.responses:
                    return
                logits_BV = state.read_latent_steps() if state.all_wait() else state.read_text()

    def choose(self, logits_BV: Tensor, responses: Sequence[Response]) -> list[int]:
        """The next token of each row, never one of the runtime's."""
        markers = self.model.markers
        if self.processors:
            each = zip(logits_BV.split(1), responses, strict=True)
            logits_BV = torch.cat([self.processors(self._ids(response), row_1V) for row_1V, response in each])
        logits_BV[:, [markers.latent, markers.eol]] = -torch.inf
        if self.min_new_tokens:
            early_B1 = torch.tensor([[len(r.token_ids) < self.min_new_tokens] for r in responses])
            ends = sorted(self.eos)
            logits_BV[:, ends] = logits_BV[:, ends].masked_fill(early_B1.to(logits_BV.device), -torch.inf)
        if self.temperature > 0:
            streams, places = [r.stream for r in responses], [len(r.token_ids) for r in responses]
            no_ids: Any = torch.empty(len(responses), 0, dtype=torch.long)
            logits_BV = sampling_processors(self.temperature, self.top_k, self.top_p, streams, places)(
                no_ids, logits_BV
            )
        return logits_BV.argmax(-1).tolist()

    def stops(self, response: Response, logits_1V: Tensor) -> bool:
        """Whether one of the criteria ends the response behind its newest token."""
        ids: Any = self._ids(response)
        return bool(self.stopping) and bool(torch.as_tensor(self.stopping(ids, logits_1V)).any())

    def _ids(self, response: Response) -> Any:
        return torch.tensor([[*response.prompt, *response.token_ids]], device=self.model.device)


class _State:
    """Responses that grow together: their mask, keys and values, and the token that each has yet to read."""

    def __init__(self, generator: LatentGenerator, responses: list[Response]) -> None:
        self.generator = generator
        self.model = generator.model
        self.head = self.model.head()
        self.responses = responses
        self.chosen = [True] * len(responses)  # whether the newest logits are of this row
        self.levels = 1
        settings = self.model.settings
        self.latents, self.shift = settings.annotation.latents, settings.shift
        self.mask_BT = torch.zeros(len(responses), 0, dtype=torch.long, device=self.model.device)
        self.past: Past | None = None

    def read_prompts(self) -> Tensor:
        """The logits behind each prompt, (B, V)."""
        width = max(len(response.prompt) for response in self.responses)
        ids = [[*r.prompt, *[0] * (width - len(r.prompt))] for r in self.responses]
        real = [[1] * len(r.prompt) + [0] * (width - len(r.prompt)) for r in self.responses]
        reading = self._read(self._embed(ids), self._extended(real))
        self.past = reading.past
        last_B = self.mask_BT.sum(1) - 1
        return self.head(reading.states_BSD[torch.arange(len(ids), device=last_B.device), last_B])

    def take_tokens(self, logits_BV: Tensor) -> None:
        """Appends a token to each row that the logits are of, and says what it does next."""
        places = [place for place, chosen in enumerate(self.chosen) if chosen]
        rows = [self.responses[place] for place in places]
        if len(rows) < len(self.responses):
            logits_BV = logits_BV[torch.tensor(places, device=logits_BV.device)]
        for place, (response, token) in enumerate(zip(rows, self.generator.choose(logits_BV, rows), strict=True)):
            if token in self.generator.eos:
                response.ended, response.end = True, token
                continue
            response.token_ids.append(token)
            if token == self.model.markers.bol:
                response.waits = True
            room = self.generator.max_new_tokens - len(response.token_ids)
            if room <= (self.latents + 1 if response.waits else 0):  # a latent step, and a token behind it
                response.ended = response.truncated = True
            elif self.generator.stops(response, logits_BV[place : place + 1]):
                response.ended = True

    def drop_ended(self) -> None:
        """Forgets rows that have ended, once they are half of all: each time copies the keys and values."""
        stay = [place for place, response in enumerate(self.responses) if not response.ended]
        if len(stay) > len(self.responses) // 2:
            return
        rows = torch.tensor(stay, dtype=torch.long, device=self.mask_BT.device)
        assert self.past is not None
        at_levels = torch.cat([rows + level * len(self.responses) for level in range(self.levels)])
        self.past = Past(tuple((k[at_levels], v[at_levels]) for k, v in self.past.layers), self.past.length)
        self.mask_BT = self.mask_BT[rows]
        self.responses = [self.responses[place] for place in stay]

    def all_wait(self) -> bool:
        return all(response.waits for response in self.responses if not response.ended)

    def read_text(self) -> Tensor:
        """The newest token of each running row; the logits behind it, of use for those rows."""
        self.chosen = [not (response.ended or response.waits) for response in self.responses]
        newest = [[response.token_ids[-1]] if response.token_ids else [0] for response in self.responses]
        mask_BT = self._extended([[int(running)] for running in self.chosen])
        reading = self._read(self._embed(newest).repeat(self.levels, 1, 1), mask_BT, self.past, levels=self.levels)
        self.past = reading.past
        return self.head(self._last_level(reading.states_BSD)[:, -1])

    def read_latent_steps(self) -> Tensor:
        """`<bol>`, the latents and `<eol>` of each waiting row, with all iterations; the logits behind them."""
        self.chosen = [response.waits and not response.ended for response in self.responses]
        markers = self.model.markers
        block = [markers.bol, *[markers.latent] * self.latents, markers.eol]
        embeds_BSD = self._embed([block] * len(self.responses))
        mask_BT = self._extended([[int(waiting)] * len(block) for waiting in self.chosen])
        for response, waiting in zip(self.responses, self.chosen, strict=True):
            if waiting:
                response.token_ids += block[1:]
                response.waits = False
        if self.generator.decoding == "autoregressive":
            return self._one_at_a_time(embeds_BSD, mask_BT)
        if self.generator.decoding == "sequential" or self.generator.iterations == 0:
            return self._one_cache(embeds_BSD, mask_BT)
        return self._levels(embeds_BSD, mask_BT)

    def _one_cache(self, embeds_BSD: Tensor, mask_BT: Tensor) -> Tensor:
        whole = self._read(embeds_BSD, mask_BT, self.past)
        before = whole.past.upto(whole.past.length - self.latents - 1)
        states_BSD, reading = whole.states_BSD, whole
        for k in range(1, self.generator.iterations + 1):
            reading = self._read(self._refined(states_BSD, embeds_BSD, k), mask_BT, before)
            states_BSD = torch.cat([whole.states_BSD[:, :1], reading.states_BSD], dim=1)
        self.past = reading.past
        return self.head(states_BSD[:, -1])

    def _one_at_a_time(self, embeds_BSD: Tensor, mask_BT: Tensor) -> Tensor:
        reading = self._read(embeds_BSD[:, :1], mask_BT, self.past)
        for place in range(1, self.latents + 1):
            latent_B1D = self.model.refine(reading.states_BSD[:, -1:]).to(embeds_BSD.dtype)
            reading = self._read(self._intervened(latent_B1D, place), mask_BT, reading.past)
        reading = self._read(embeds_BSD[:, -1:], mask_BT, reading.past)
        self.past = reading.past
        return self.head(reading.states_BSD[:, -1])

    def _levels(self, embeds_BSD: Tensor, mask_BT: Tensor) -> Tensor:
        levels, rows = self.generator.iterations + 1, len(self.responses)
        assert self.past is not None
        if self.levels == 1:  # the first latent step of all: up to here the levels are the same
            layers = tuple((k.repeat(levels, 1, 1, 1), v.repeat(levels, 1, 1, 1)) for k, v in self.past.layers)
            self.past, self.levels = Past(layers, self.past.length), levels
        bol = self._read(embeds_BSD[:, :1].repeat(levels, 1, 1), mask_BT, self.past, levels=levels)
        pasts: list[Past] = []
        inputs = embeds_BSD[:, 1:]
        for k in range(levels):
            own = slice(k * rows, (k + 1) * rows)
            before = Past(tuple((keys[own], values[own]) for keys, values in bol.past.layers), bol.past.length)
            reading = self._read(inputs, mask_BT, before)
            pasts.append(reading.past)
            if k + 1 < levels:
                states_BSD = torch.cat([bol.states_BSD[own], reading.states_BSD], dim=1)
                inputs = self._refined(states_BSD, embeds_BSD, k + 1)
        layers = tuple(
            (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
            for layer in zip(*(past.layers for past in pasts), strict=True)
        )
        self.past = Past(layers, pasts[0].length)
        return self.head(reading.states_BSD[:, -1])

    def _refined(self, states_BSD: Tensor, embeds_BSD: Tensor, iteration: int) -> Tensor:
        """Input embeddings of latents and `<eol>`, (B, N + 1, D), from the states at `<bol>`, latents and `<eol>`."""
        first = 1 - self.shift
        latents_BND = self.model.refine(states_BSD[:, first : first + self.latents]).to(embeds_BSD.dtype)
        return torch.cat([self._intervened(latents_BND, iteration), embeds_BSD[:, -1:]], dim=1)

    def _intervened(self, latents_BND: Tensor, iteration: int) -> Tensor:
        if self.generator.intervene is None:
            return latents_BND
        takers = [r if chosen else None for r, chosen in zip(self.responses, self.chosen, strict=True)]
        return self.generator.intervene(latents_BND, iteration, takers)

    def _embed(self, ids: Sequence[Sequence[int]]) -> Tensor:
        return self.model.embed(torch.tensor(ids, device=self.model.device))

    def _extended(self, real: Sequence[Sequence[int]]) -> Tensor:
        """The mask with these columns behind; it is kept."""
        self.mask_BT = torch.cat([self.mask_BT, torch.tensor(real, device=self.mask_BT.device)], dim=1)
        return self.mask_BT

    def _read(self, embeds_BSD: Tensor, mask_BT: Tensor, past: Past | None = None, *, levels: int = 1) -> Reading:
        end = (0 if past is None else past.length) + embeds_BSD.shape[1]
        read = Reader(self.model.base, mask_BT[:, :end].repeat(levels, 1))
        reading = read(embeds_BSD, past)
        self.generator.token_passes += read.token_passes
        return reading

    def _last_level(self, states_BSD: Tensor) -> Tensor:
        return states_BSD[-len(self.responses) :]


def _in_order(of_samples: dict[int, Generation]) -> list[Generation]:
    return [of_samples[sample] for sample in sorted(of_samples)]
