"""The calls we make into vLLM, held to the signatures of its source; vLLM itself is not installed here.

The stand-in below takes what vllm/entrypoints/llm.py, vllm/sampling_params.py, vllm/inputs/llm.py and
vllm/lora/request.py of vllm-project/vllm (main, 2026) take, and nothing else: a wrong name or type fails.
"""

import dataclasses
import hashlib
import json
import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from thinker_common.errors import DataError, SettingsError, UserError
from thinker_common.evaluation.generate import Backend
from thinker_common.evaluation.vllm_backend import VllmBackend

EOS = 1
CONTEXT = 64


@pytest.fixture(scope="module")
def tokenizer():
    words = {"<pad>": 0, "<eos>": EOS, **{f"w{i}": i for i in range(2, 40)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


@dataclasses.dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    def __post_init__(self):
        assert 0 <= self.temperature <= 2 and 0 < self.top_p <= 1 and self.top_k >= -1 and self.max_tokens >= 1
        assert self.seed is None or 0 <= self.seed < 2**63
        assert all(isinstance(token, int) for token in self.stop_token_ids or [])


class TokensPrompt(dict):
    def __init__(self, *, prompt_token_ids: list[int], prompt: str = "", cache_salt: str = ""):
        assert isinstance(prompt_token_ids, list) and all(isinstance(token, int) for token in prompt_token_ids)
        super().__init__(prompt_token_ids=prompt_token_ids)


@dataclasses.dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    lora_local_path: str | None = None
    long_lora_max_len: int | None = None
    base_model_name: str | None = None
    tensorizer_config_dict: dict | None = None

    def __post_init__(self):
        assert self.lora_int_id >= 1 and self.lora_path


@dataclasses.dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: Any
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclasses.dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    outputs: list[CompletionOutput]
    finished: bool


class LLM:
    made: "LLM"

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        quantization: str | None = None,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        enforce_eager: bool = False,
        # of EngineArgs
        max_model_len: int | None = None,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
        max_loras: int = 1,
    ):
        assert max_lora_rank in (1, 8, 16, 32, 64, 128, 256, 320, 512)
        self.model, self.dtype, self.enable_lora, self.max_lora_rank = model, dtype, enable_lora, max_lora_rank
        self.model_config = types.SimpleNamespace(max_model_len=max_model_len or CONTEXT)
        self.calls: list[list[SamplingParams]] = []
        self.finish_reason: str | None = None
        LLM.made = self

    def generate(
        self,
        prompts: Sequence[TokensPrompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: Sequence[LoRARequest] | LoRARequest | None = None,
        priority: list[int] | None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        assert isinstance(sampling_params, list) and len(sampling_params) == len(prompts)
        assert lora_request is None or (self.enable_lora and isinstance(lora_request, LoRARequest))
        self.calls.append(sampling_params)
        return [self._respond(str(i), *pair) for i, pair in enumerate(zip(prompts, sampling_params, strict=True))]

    def _respond(self, request_id: str, prompt: TokensPrompt, params: SamplingParams) -> RequestOutput:
        """Tokens that follow from the prompt and, when sampling, from the seed; an end token now and then."""
        source = repr((prompt["prompt_token_ids"], params.seed if params.temperature else None))
        stream = list(hashlib.sha256(source.encode()).digest())
        tokens, reason = [2 + byte % 38 for byte in stream[: params.max_tokens]], "length"
        length = stream[-1] % (2 * params.max_tokens)
        if length < params.max_tokens:
            tokens, reason = [*tokens[:length], params.stop_token_ids[0]], "stop"
        output = CompletionOutput(0, "", tokens, None, None, finish_reason=self.finish_reason or reason)
        return RequestOutput(request_id, None, prompt["prompt_token_ids"], [output], True)


@pytest.fixture
def vllm(monkeypatch):
    top, inputs, lora, request = (
        types.ModuleType(name) for name in ("vllm", "vllm.inputs", "vllm.lora", "vllm.lora.request")
    )
    top.LLM, top.SamplingParams = LLM, SamplingParams
    inputs.TokensPrompt, request.LoRARequest = TokensPrompt, LoRARequest
    for module in (top, inputs, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return top


PROMPTS = [[5, 6], [7], [8, 9, 10], [11] * 7]


def test_responses_in_order_with_end_tokens_cut_and_truncation_told(vllm, tokenizer):
    backend: Backend = VllmBackend("m", tokenizer, max_new_tokens=8)
    seen = []
    got = backend.sample(PROMPTS * 3, on_batch=lambda indices, responses: seen.append((indices, responses)))
    assert len(got) == 12 and got[:4] == got[4:8] == got[8:]
    assert seen == [(list(range(12)), got)]
    assert {response.truncated for (response,) in got} == {True, False}
    for (response,) in got:
        assert EOS not in response.token_ids
        assert response.truncated == (len(response.token_ids) == 8)
        assert response.text.split() == [f"w{token}" for token in response.token_ids]


def test_every_sample_has_a_seed_of_its_own_that_follows_from_key_and_number(vllm, tokenizer):
    settings = {"max_new_tokens": 8, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "seed": 3}
    backend = VllmBackend("m", tokenizer, **settings)
    got = backend.sample(PROMPTS, 3, keys=["a", "b", "c", "d"])
    (sent,) = LLM.made.calls
    assert len({params.seed for params in sent}) == 12
    assert all((p.temperature, p.top_p, p.top_k, p.max_tokens) == (0.7, 0.9, 5, 8) for p in sent)
    assert got[2:] == backend.sample(PROMPTS[2:], 3, keys=["c", "d"])  # whatever else is asked for
    assert [few[:2] for few in got] == backend.sample(PROMPTS, 2, keys=["a", "b", "c", "d"])
    assert got != VllmBackend("m", tokenizer, **{**settings, "seed": 4}).sample(PROMPTS, 3, keys=["a", "b", "c", "d"])


def test_long_lists_are_reported_in_parts(vllm, tokenizer, monkeypatch):
    monkeypatch.setattr("thinker_common.evaluation.vllm_backend.PROMPTS_PER_CALL", 3)
    seen = []
    backend = VllmBackend("m", tokenizer, max_new_tokens=4, temperature=1.0)
    got = backend.sample(PROMPTS * 2, 2, on_batch=lambda indices, responses: seen.append((indices, responses)))
    assert [len(call) for call in LLM.made.calls] == [6, 6, 4]
    assert seen == [([0, 1, 2], got[:3]), ([3, 4, 5], got[3:6]), ([6, 7], got[6:])]


def test_a_lora_adapter_goes_along_with_room_for_its_rank(vllm, tokenizer, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 24, "peft_type": "LORA"}))
    backend = VllmBackend("base", tokenizer, max_new_tokens=4, adapter=tmp_path, engine={"dtype": "bfloat16"})
    assert (LLM.made.model, LLM.made.dtype) == ("base", "bfloat16")
    assert LLM.made.enable_lora and LLM.made.max_lora_rank == 32
    assert len(backend.sample(PROMPTS)) == 4
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 1024}))
    with pytest.raises(DataError, match="rank 1024 is more than the 512 vLLM takes: merge the adapter first"):
        VllmBackend("base", tokenizer, max_new_tokens=4, adapter=tmp_path)
    with pytest.raises(DataError, match="not the configuration of a LoRA adapter"):
        VllmBackend("base", tokenizer, max_new_tokens=4, adapter=tmp_path / "nothing")


def test_limits_are_checked_before_vllm_is_asked(vllm, tokenizer):
    backend = VllmBackend("m", tokenizer, max_new_tokens=60)
    with pytest.raises(
        UserError, match=r"7 tokens; with max_new_tokens = 60 .* context of 64 tokens: set it to at most"
    ):
        backend.sample(PROMPTS)
    with pytest.raises(SettingsError, match="samples = 2: greedy responses are all equal"):
        VllmBackend("m", tokenizer, max_new_tokens=4).sample(PROMPTS, 2)
    with pytest.raises(SettingsError, match="max_new_tokens = 0"):
        VllmBackend("m", tokenizer, max_new_tokens=0)


def test_a_response_that_vllm_gave_up_is_no_response(vllm, tokenizer):
    backend = VllmBackend("m", tokenizer, max_new_tokens=4)
    LLM.made.finish_reason = "abort"
    with pytest.raises(UserError, match="vLLM gave up a response: abort"):
        backend.sample(PROMPTS)


def test_without_vllm_the_error_says_what_to_install(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r'pip install "thinker-common\[vllm\]"'):
        VllmBackend("m", tokenizer, max_new_tokens=4)
