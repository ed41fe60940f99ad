"""The checks of `doctor --selftest`, each in a process of its own, on the embedded model and without network.

`python -m <this package>.selftest_checks NAME FOLDER` runs one and writes FOLDER/result.json; without one it crashed.
"""

import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..distributed.launch_settings import LaunchSettings
from ..likelihood.logprobs import log_softmax
from ..likelihood.scorer import AnswerScorer, ScoringItem
from ..models.embedded import embedded_path
from ..models.load import load_policy, load_tokenizer

ITEMS = [ScoringItem(f"What is {i} + {i * i}?", "So it is ", answer=f"{i + i * i}") for i in range(16)]
# Nats a token that two ways of computing a log-probability may differ by, by their number format. On a CPU they differ
# by 6e-6 and 0.1.
FLOAT32, BFLOAT16 = 1e-4, 0.3


class NotHereError(Exception):
    """What a check needs and this machine has not."""


class CheckFailedError(Exception):
    """What a check found, in words that need no name of an exception."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# ------------------------------------------------------------------------------------------------------- one process


def float32() -> str:
    """Loss and gradients of the embedded model; on a GPU they are those of the CPU."""
    found = _loss_and_gradient_norm(device())
    for name, value in zip(("loss", "gradient norm"), found, strict=True):
        if not 0 < value < float("inf"):
            raise CheckFailedError(f"{name} is {value}")
    if device().type == "cuda":
        expected = _loss_and_gradient_norm(torch.device("cpu"))
        _near(found, expected, 1e-3, "loss and gradient norm on the GPU and on the CPU")
    return f"on the {_device_name()}: loss {found[0]:.3f}, gradient norm {found[1]:.3f}"


def scores() -> str:
    """The scorer, whose logits are computed in chunks and shared, against a softmax over all logits."""
    model, tokenizer = _policy(), load_tokenizer("embedded")
    for score, item in zip(AnswerScorer(model, tokenizer).score(ITEMS), ITEMS, strict=True):
        context = tokenizer.encode(f"{item.prompt}{item.reasoning}", add_special_tokens=False)
        ids_1T = torch.tensor([[*context, *score.token_ids]], device=device())
        with torch.no_grad():
            logprobs_TV = log_softmax(model(ids_1T).logits[0])
        positions = range(len(context), ids_1T.shape[1])
        full = [float(logprobs_TV[at - 1, ids_1T[0, at]]) for at in positions]
        _near(score.token_logprobs, full, FLOAT32, "an answer's log-probabilities and those of the full softmax")
    return f"{len(ITEMS)} answers, within {FLOAT32:g} nat a token of the full softmax"


def bfloat16() -> str:
    """The scores in bfloat16 are near those in float32; both are timed."""
    (exact, slow), (rounded, fast) = (_timed_logprobs(_policy(dtype)) for dtype in ("float32", "bfloat16"))
    _near(rounded, exact, BFLOAT16, "log-probabilities in bfloat16 and in float32")
    ratio = fast / slow
    speed = f"{ratio:.1f} times the time of float32" if ratio > 1 else f"{1 / ratio:.1f} times as fast as float32"
    advice = ": use float32 here" if device().type == "cpu" and ratio > 1 else ""
    return f"on the {_device_name()}: within {BFLOAT16:g} nat a token, {speed}{advice}"


def sdpa() -> str:
    """PyTorch's attention kernels against the attention that is written out."""
    eager, kernel = (_logprobs(_policy(attn_implementation=name)) for name in ("eager", "sdpa"))
    _near(kernel, eager, FLOAT32, "log-probabilities under sdpa and eager")
    return f"within {FLOAT32:g} nat a token of eager"


def flash_attention() -> str:
    """The package flash-attn, which computes in half precision on a GPU only."""
    from transformers.utils import is_flash_attn_2_available

    if not torch.cuda.is_available():
        raise NotHereError("a GPU of CUDA")
    if not is_flash_attn_2_available():
        raise NotHereError("the package flash-attn: python -m pip install flash-attn --no-build-isolation")
    names = ("eager", "flash_attention_2")
    eager, kernel = (_logprobs(_policy("bfloat16", attn_implementation=name)) for name in names)
    _near(kernel, eager, BFLOAT16, "log-probabilities under flash_attention_2 and eager")
    return f"within {BFLOAT16:g} nat a token of eager, both in bfloat16"


def generation() -> str:
    """Greedy decoding of the 1,000 test problems of `chains` gives the accuracy on the embedded model's card."""
    from ..benchmarks import load_benchmark
    from ..evaluation.evaluate import evaluate

    card = json.loads((embedded_path() / "scores.json").read_text(encoding="utf-8"))["chains"]
    result = evaluate(
        _policy(),
        load_tokenizer("embedded"),
        load_benchmark("chains"),
        max_new_tokens=card["decoding"]["max_new_tokens"],
        max_tokens_per_batch=16384,
        score_answers=False,
    )
    found = result.to_dict()
    for name in ("accuracy", "boxed_rate"):
        # Near-ties between two tokens may fall the other way on another machine.
        _near([found[name]], [card[name]], 0.01, f"{name} of 1,000 chains and the one on the model's card")
    return f"{100 * found['accuracy']:.1f} % of {card['n']:,} chains solved, {100 * card['accuracy']:.1f} % on its card"


def vllm() -> str:
    """vLLM generates with the embedded model; without a GPU it is only imported."""
    if importlib.util.find_spec("vllm") is None:
        raise NotHereError('the package vllm: python -m pip install "thinker-common[vllm]"')
    import vllm

    if not torch.cuda.is_available():
        return f"{vllm.__version__} loads; generating takes a GPU of CUDA"
    from ..benchmarks import load_benchmark
    from ..evaluation.vllm_backend import VllmBackend
    from ..models.chat import render_prompt

    tokenizer = load_tokenizer("embedded")
    problems = load_benchmark("chains", limit=8).problems
    prompts = [render_prompt(tokenizer, problem.prompt_text()) for problem in problems]
    # Compiled graphs take minutes and speed up eight short responses by nothing.
    engine = {"dtype": "float32", "gpu_memory_utilization": 0.3, "enforce_eager": True}
    backend = VllmBackend(str(embedded_path()), tokenizer, max_new_tokens=64, engine=engine)
    boxed = sum("\\boxed{" in response.text for [response] in backend.sample(prompts))
    if boxed < len(prompts):
        raise CheckFailedError(f"{boxed} of {len(prompts)} responses have a box; the model's card says all")
    return f"{vllm.__version__}: {len(prompts)} responses, as the model's card describes them"


# ------------------------------------------------------------------------------------------------- several processes


def gloo() -> str:
    return _collective("gloo")


def nccl() -> str:
    count = torch.cuda.device_count()
    if count < 2:
        raise NotHereError("two GPUs of CUDA")
    return _collective("nccl")


def zero3() -> str:
    """Two steps of AdamW under ZeRO-3 through the launcher, with the preset that `--zero 3` trains with."""
    if importlib.util.find_spec("deepspeed") is None:
        raise NotHereError("the package deepspeed: python -m pip install deepspeed")
    ranks = min(2, torch.cuda.device_count()) or 2
    _launch("zero3", LaunchSettings(gpus=ranks, zero=3, patience_seconds=800))
    return f"DeepSpeed {version('deepspeed')}, {_processes(ranks)} on the {_device_name()}: the loss of one process"


def _collective(backend: str) -> str:
    _launch(backend, LaunchSettings(gpus=2, launcher="torchrun", patience_seconds=240))
    return "two processes: sums and objects arrive"


def _launch(worker: str, settings: LaunchSettings) -> None:
    from ..distributed.launch import plan_launch
    from ..distributed.supervisor import Supervisor

    plan = plan_launch(settings, f"{__package__}.selftest_checks", [worker])
    assert plan is not None, "there are several ranks, or DeepSpeed"
    supervisor = Supervisor(plan)
    code = supervisor.run()
    if code:
        account = supervisor.report.partition("\n")[0].removeprefix("error: ")
        raise CheckFailedError(account or f"{_processes(plan.world_size)} ended with exit code {code}")


def _collective_rank(backend: str) -> None:
    from ..distributed import ranks
    from ..distributed.process_group import process_group

    with process_group() as here:
        if torch.distributed.get_backend() != backend:
            raise CheckFailedError(f"the processes met over {torch.distributed.get_backend()}, not {backend}")
        ones_N = torch.full((1 << 16,), float(ranks.rank() + 1), device=here)
        torch.distributed.all_reduce(ones_N)
        _near(ones_N.unique().tolist(), [3.0], 0.0, "the sum over the ranks and 1 + 2")
        if ranks.gather({"rank": ranks.rank()}, "objects") != [{"rank": 0}, {"rank": 1}]:
            raise CheckFailedError("objects did not arrive from every rank")


def _zero3_rank() -> None:
    import deepspeed
    from transformers.integrations import HfDeepSpeedConfig

    from ..distributed import ranks
    from ..distributed.deepspeed_config import RunValues, deepspeed_config
    from ..distributed.engine import check_engine
    from ..distributed.launch import launched_ranks
    from ..distributed.process_group import process_group

    with process_group() as here:
        expected, _ = _loss_and_gradient_norm(here)
        cpu = here.type == "cpu"
        settings = LaunchSettings(zero=3)
        values = RunValues(
            micro_batch=len(ITEMS), accumulation=1, world_size=ranks.world_size(), max_grad_norm=1.0, bf16=False,
            learning_rate=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, cpu=cpu,
            hidden_size=8,  # a small one: the thresholds follow from it, and the weights are small as well
        )  # fmt: skip
        config = deepspeed_config(settings, values)
        assert config is not None
        deepspeed.init_distributed(dist_backend="gloo" if cpu else None, auto_mpi_discovery=False, verbose=False)
        zero = HfDeepSpeedConfig(config)  # while it lives, transformers divides weights as it loads them
        model: Any = load_policy("embedded", dtype="float32")
        optimizer = torch.optim.AdamW(model.parameters(), lr=values.learning_rate)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=zero.config)
        check_engine(engine, settings, config, world_size=ranks.world_size(), launched_ranks=launched_ranks())
        losses = []
        for _ in range(2):
            loss = engine(**_batch(here)).loss
            engine.backward(loss)
            engine.step()
            losses.append(float(loss.detach()))
        _near(losses[:1], [expected], 1e-3, "the loss under ZeRO-3 and that of one process")
        if not losses[1] < losses[0]:
            raise CheckFailedError(f"a step does not lower the loss: {losses[0]}, then {losses[1]}")


# ------------------------------------------------------------------------------------------------------------ helpers


def _policy(dtype: str = "float32", *, attn_implementation: str | None = None) -> Any:
    model: Any = load_policy("embedded", dtype=dtype, attn_implementation=attn_implementation)
    return model.to(device())


def _batch(where: torch.device) -> dict[str, torch.Tensor]:
    tokenizer = load_tokenizer("embedded")
    texts = [f"{item.prompt}{item.reasoning}{item.answer}" for item in ITEMS]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt", add_special_tokens=False)
    mask_BT = batch["attention_mask"]
    labels_BT = batch["input_ids"].masked_fill(mask_BT == 0, -100)
    found = {"input_ids": batch["input_ids"], "attention_mask": mask_BT, "labels": labels_BT}
    return {name: tensor.to(where) for name, tensor in found.items()}


def _loss_and_gradient_norm(where: torch.device) -> tuple[float, float]:
    model: Any = load_policy("embedded", dtype="float32").to(where)  # type: ignore[arg-type]
    loss = model(**_batch(where)).loss
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    return float(loss.detach()), float(norm)


def _logprobs(model: Any) -> list[float]:
    answers = AnswerScorer(model, load_tokenizer("embedded")).score(ITEMS)
    return [logprob for answer in answers for logprob in answer.token_logprobs]


def _timed_logprobs(model: Any) -> tuple[list[float], float]:
    _logprobs(model)  # the first pass chooses kernels
    start = time.perf_counter()
    found = _logprobs(model)
    return found, time.perf_counter() - start


def _near(found: Sequence[float], expected: Sequence[float], tolerance: float, what: str) -> None:
    """CheckFailedError where two lists differ by more, or where one is not a number."""
    differences = [abs(a - b) for a, b in zip(found, expected, strict=True)]
    wrong = [difference for difference in differences if not difference <= tolerance]  # NaN among them
    if wrong:
        raise CheckFailedError(f"{what} differ by {max(wrong):.2g}, and {tolerance:g} is allowed")


def _device_name() -> str:
    return "GPU" if device().type == "cuda" else "CPU"


def _processes(count: int) -> str:
    return "one process" if count == 1 else f"{count} processes"


# ------------------------------------------------------------------------------------------------------------ running

CHECKS: dict[str, Callable[[], str]] = {
    "float32": float32,
    "scores": scores,
    "bfloat16": bfloat16,
    "sdpa": sdpa,
    "flash attention": flash_attention,
    "generation": generation,
    "gloo": gloo,
    "NCCL": nccl,
    "ZeRO-3": zero3,
    "vLLM": vllm,
}


def main(name: str, folder: str) -> None:
    try:
        result = {"result": "passed", "detail": CHECKS[name]()}
    except NotHereError as missing:
        result = {"result": "not here", "detail": f"needs {missing}"}
    except Exception as error:
        traceback.print_exc()
        reason = str(error).strip().partition("\n")[0]
        if not isinstance(error, CheckFailedError):
            reason = f"{type(error).__name__}: {reason}"
        result = {"result": "failed", "detail": reason}
    (Path(folder) / "result.json").write_text(json.dumps(result), encoding="utf-8")


def rank(worker: str) -> None:
    """One rank of a check with several processes, as the launcher starts it."""
    if worker == "zero3":
        _zero3_rank()
    else:
        _collective_rank(worker)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(*sys.argv[1:])
    else:
        rank(*sys.argv[1:])
