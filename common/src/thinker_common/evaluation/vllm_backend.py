"""vLLM as a `Backend`: the extra `thinker-common[vllm]`, imported only when one is made.

Written against `vllm.LLM`, `SamplingParams`, `TokensPrompt` and `LoRARequest` of vLLM's main branch as of 0.2x/0.3x; a
test holds every call to those signatures.

Every sample is a request of its own with its own seed, so that vLLM draws its tokens independently of what else is in
the batch; the prefix cache shares the prompt between them. The tokens are not those of `Generator` under the same seed:
the two draw from the same distribution in different ways.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, UserError
from .generate import Generation, OnSampled, check_context, check_decoding, check_samples, generation
from .sampling import stream_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Prompts handed to vLLM at once: enough to keep it busy, few enough that a killed run loses little.
PROMPTS_PER_CALL = 256
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what `max_lora_rank` may be


class VllmBackend:
    """Greedy (`temperature=0`) or sampled responses by vLLM; decoding settings as `Generator` has them."""

    def __init__(
        self,
        model: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        adapter: str | Path | None = None,
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        """Loads the model.

        model: a name or folder, of the base model where there is an adapter
        adapter: a folder with a LoRA adapter
        engine: further arguments of `vllm.LLM` (tensor_parallel_size, gpu_memory_utilization, dtype, revision ...)

        Raises UserError where vLLM is not installed; SettingsError for impossible values; DataError for an adapter
        that vLLM cannot take.
        """
        check_decoding(max_new_tokens, temperature, top_p, top_k)
        try:
            import vllm
            from vllm.inputs import TokensPrompt
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise UserError(
                f'vLLM cannot be imported ({error}): pip install "thinker-common[vllm]", or evaluate without it'
            ) from error
        arguments = dict(engine or {})
        self._lora: Any = None
        if adapter is not None:
            arguments |= {"enable_lora": True, "max_lora_rank": _lora_rank(Path(adapter))}
            self._lora = LoRARequest(lora_name="adapter", lora_int_id=1, lora_path=str(adapter))
        self.llm = vllm.LLM(model, **arguments)
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.seed = seed
        self._params = vllm.SamplingParams
        self._prompt = TokensPrompt

    @property
    def context(self) -> int | None:
        """Tokens of prompt and response together that the engine was made for."""
        return int(self.llm.model_config.max_model_len)

    @property
    def module(self) -> None:
        return None

    def check_lengths(self, prompt_ids: Sequence[Sequence[int]]) -> None:
        """UserError when a prompt and `max_new_tokens` exceed the context. `sample` asks this first."""
        check_context(max((len(ids) for ids in prompt_ids), default=0), self.max_new_tokens, self.context)

    def sample(
        self,
        prompt_ids: Sequence[Sequence[int]],
        samples: int = 1,
        *,
        keys: Sequence[str] | None = None,
        on_batch: OnSampled | None = None,
    ) -> list[list[Generation]]:
        """`samples` responses a prompt, in input order; arguments and errors as `Generator.sample` has them."""
        check_samples(samples, self.temperature)
        self.check_lengths(prompt_ids)
        names = keys if keys is not None else [repr(list(ids)) for ids in prompt_ids]
        assert len(names) == len(prompt_ids), "a key for each prompt"
        responses: list[list[Generation]] = []
        for first in range(0, len(prompt_ids), PROMPTS_PER_CALL):
            indices = range(first, min(first + PROMPTS_PER_CALL, len(prompt_ids)))
            outputs = self.llm.generate(
                [self._prompt(prompt_token_ids=list(prompt_ids[i])) for i in indices for _ in range(samples)],
                [self._sampling(names[i], sample) for i in indices for sample in range(samples)],
                use_tqdm=False,
                lora_request=self._lora,
            )
            flat = [self._generation(output.outputs[0]) for output in outputs]
            batch = [flat[start : start + samples] for start in range(0, len(flat), samples)]
            responses += batch
            if on_batch is not None:
                on_batch(list(indices), batch)
        return responses

    def _sampling(self, key: str, sample: int) -> Any:
        return self._params(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=stream_seed(self.seed, key, sample),
            max_tokens=self.max_new_tokens,
            # vLLM itself stops at the end tokens of the model folder's generation config.
            stop_token_ids=[] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id],
            detokenize=False,
        )

    def _generation(self, completion: Any) -> Generation:
        if completion.finish_reason not in ("stop", "length"):
            raise UserError(f"vLLM gave up a response: {completion.finish_reason}")
        ended = completion.finish_reason == "stop"
        # The token that ended it is the last one: there are no stop strings.
        token_ids = list(completion.token_ids)[:-1] if ended else list(completion.token_ids)
        return generation(self.tokenizer, token_ids, truncated=not ended)


def _lora_rank(adapter: Path) -> int:
    """The least rank that vLLM can reserve room for and the adapter fits into."""
    file = adapter / "adapter_config.json"
    try:
        rank = int(json.loads(file.read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not the configuration of a LoRA adapter: {error}") from error
    if rank > _LORA_RANKS[-1]:
        raise DataError(f"{file}: rank {rank} is more than the {_LORA_RANKS[-1]} vLLM takes: merge the adapter first")
    return next(possible for possible in _LORA_RANKS if possible >= rank)
