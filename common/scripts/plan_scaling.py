"""The paper plan for 8 and 64 GPUs: memory and traffic of a rank for each ZeRO stage, and what a step of RL takes.

    python common/scripts/plan_scaling.py

Memory and traffic come from `distributed/memory.py`; times follow from them and from the assumptions below, which are
printed with the tables. Nothing here was measured on GPUs.
"""

from dataclasses import dataclass, replace

from thinker_common.distributed.memory import GIB, Job, ModelShape, estimate, llama_parameters, traffic

# --- assumptions ------------------------------------------------------------------------------------------------------

GPU = "A100 80 GB"
DEVICE_BYTES = 80e9
USABLE = 0.9  # of it; the rest for the libraries and fragmentation
PEAK_FLOPS = 312e12  # bfloat16, dense
TRAIN_SHARE = 0.40  # of the peak that training reaches
FORWARD_SHARE = 0.45  # and a forward pass without gradient
HBM = 2.0e12  # bytes a second
HBM_SHARE = 0.6  # of it while decoding
LAYER_SECONDS = 0.9e-3  # a layer's launches in one decoding step of transformers' generate, without CUDA graphs
ENGINE_LAYER_SECONDS = 0.1e-3  # the same in an engine with CUDA graphs, such as vLLM
NETWORKS = {8: ("NVLink", 200e9), 64: ("8 x 200 Gb/s InfiniBand a host", 150e9)}  # bytes a second a rank
ETHERNET = ("one 100 Gb/s Ethernet a host", 11e9)
# A step of the paper: 16 prompts of 8 responses.
RESPONSES = 128
PROMPT_TOKENS, MEAN_RESPONSE, LONGEST_RESPONSE = 256, 512, 1024
NO_GRAD_PASSES = 3  # answer likelihood, answer-conditioned policy, reference policy


@dataclass(frozen=True)
class Model:
    """A model to plan for."""

    name: str
    shape: ModelShape


def qwen(
    name: str, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocab: int, *, tied: bool
) -> Model:
    shape = ModelShape(0, 0, hidden, intermediate, layers, heads, kv_heads, hidden // heads, vocab)
    parameters = llama_parameters(shape, tied=tied, attention_bias=True)
    return Model(name, replace(shape, parameters=parameters, trainable=parameters))


MODELS = [
    qwen("Qwen2.5-1.5B", 1536, 8960, 28, 12, 2, 151936, tied=True),
    qwen("Qwen2.5-7B", 3584, 18944, 28, 28, 4, 152064, tied=False),
]
STAGES = [(None, False), (1, False), (2, False), (3, False), (2, True), (3, True)]


def lora(shape: ModelShape, rank: int = 32) -> ModelShape:
    """The shape with adapters of this rank on the seven linear modules of every layer."""
    width, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sides = 2 * (shape.hidden + width) + 2 * (shape.hidden + kv) + 3 * (shape.hidden + shape.intermediate)
    adapter = shape.layers * rank * sides
    return replace(shape, parameters=shape.parameters + adapter, trainable=adapter)


def job_for(shape: ModelShape, gpus: int, zero: int | None, offload: bool, *, with_lora: bool) -> Job:
    """The paper's step on so many GPUs: at most four rows a forward pass."""
    rows = RESPONSES // gpus
    micro_batch = min(rows, 4)
    tokens = PROMPT_TOKENS + LONGEST_RESPONSE
    return Job(
        micro_batch=micro_batch, tokens=tokens, accumulation=rows // micro_batch, ranks=gpus, zero=zero,
        offload=offload, bf16=True, checkpointing=True, reference=not with_lora, rollout_rows=rows,
        scoring_tokens=min(16384, rows * tokens),
    )  # fmt: skip


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimiser step."""

    generation: float
    compute: float
    traffic: float

    @property
    def total(self) -> float:
        return self.generation + self.compute + self.traffic


def step_time(shape: ModelShape, job: Job, bandwidth: float, layer_seconds: float) -> StepTime:
    """Sampling, then passes without gradient, then the update; nothing overlaps."""
    rows = RESPONSES / job.ranks
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * 2
    read = 2 * shape.parameters + rows * (PROMPT_TOKENS + MEAN_RESPONSE / 2) * cache
    decoding_step = max(read / (HBM * HBM_SHARE), shape.layers * layer_seconds)
    # A batch lasts as long as its longest response, and some response always reaches the limit.
    generation = LONGEST_RESPONSE * decoding_step
    tokens = rows * (PROMPT_TOKENS + MEAN_RESPONSE)
    forward = 2 * shape.parameters * tokens
    no_grad = NO_GRAD_PASSES * forward / (PEAK_FLOPS * FORWARD_SHARE)
    update = 4 * forward / (PEAK_FLOPS * TRAIN_SHARE)  # forward, recomputed forward, backward
    sent = traffic(shape, job)[0]
    if job.zero == 3:
        sent += (NO_GRAD_PASSES + 1) * 2 * shape.parameters  # gathered for every pass, and once for the rollout
    return StepTime(generation, no_grad + update, sent / bandwidth)


def name_of(zero: int | None, offload: bool) -> str:
    return "DDP" if zero is None else f"ZeRO-{zero}" + (" offload" if offload else "")


def memory_table(model: Model, *, with_lora: bool) -> None:
    shape = lora(model.shape) if with_lora else model.shape
    what = "LoRA of rank 32" if with_lora else "full fine-tuning with a reference model"
    print(f"\n### {model.name}, {what}\n")
    print("| | " + " | ".join(f"{n} GPUs: GiB a GPU | in the host's | GB sent a step" for n in NETWORKS) + " |")
    print("|---|" + "---:|---:|---:|" * len(NETWORKS))
    for zero, offload in STAGES:
        cells = []
        for gpus in NETWORKS:
            job = job_for(shape, gpus, zero, offload, with_lora=with_lora)
            estimated = estimate(shape, job)
            mark = "" if estimated.peak() <= USABLE * DEVICE_BYTES else " (too much)"
            cells.append(f"{estimated.peak() / GIB:.1f}{mark} | {estimated.peak('host') / GIB:.1f}")
            cells.append(f"{traffic(shape, job)[0] / 1e9:.1f}")
        print(f"| {name_of(zero, offload)} | {' | '.join(cells)} |")


def time_table(*, with_lora: bool) -> None:
    columns = ["model", "GPUs", "engine", "generation s", "compute s", "traffic s", "step s", "generation", "faster s"]
    print(f"\n| {' | '.join(columns)} |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|")
    for model in MODELS:
        shape = lora(model.shape) if with_lora else model.shape
        for gpus, (_, bandwidth) in NETWORKS.items():
            for zero in (None, 2, 3):
                job = job_for(shape, gpus, zero, False, with_lora=with_lora)
                if estimate(shape, job).peak() > USABLE * DEVICE_BYTES:
                    continue
                time = step_time(shape, job, bandwidth, LAYER_SECONDS)
                faster = step_time(shape, job, bandwidth, ENGINE_LAYER_SECONDS)
                print(
                    f"| {model.name} | {gpus} | {name_of(zero, False)} | {time.generation:.1f} | {time.compute:.1f} | "
                    f"{time.traffic:.2f} | {time.total:.1f} | {time.generation / time.total:.0%} | {faster.total:.1f} |"
                )


def ethernet_table() -> None:
    print(f"\n| model | 64 GPUs, {ETHERNET[0]} | traffic s | step s |")
    print("|---|---|---:|---:|")
    for model in MODELS:
        for zero in (1, 2, 3):
            job = job_for(model.shape, 64, zero, False, with_lora=False)
            time = step_time(model.shape, job, ETHERNET[1], LAYER_SECONDS)
            print(f"| {model.name} | {name_of(zero, False)} | {time.traffic:.1f} | {time.total:.1f} |")


def balance_table() -> None:
    """Responses a GPU at which the passes and the update take as long as sampling. All of these are linear in them."""
    print("\n| model | with transformers' generate | with an engine with CUDA graphs |")
    print("|---|---:|---:|")
    for model in MODELS:
        cells = []
        for layer_seconds in (LAYER_SECONDS, ENGINE_LAYER_SECONDS):
            time = step_time(model.shape, job_for(model.shape, 8, 2, False, with_lora=False), 1e12, layer_seconds)
            cells.append(f"{time.generation / (time.compute / (RESPONSES / 8)):.0f}")
        print(f"| {model.name} | {' | '.join(cells)} |")


def main() -> None:
    print(
        f"""Assumed:

- {GPU}: {PEAK_FLOPS / 1e12:.0f} TFLOP/s in bfloat16, of which training reaches {TRAIN_SHARE:.0%} and a forward pass
  {FORWARD_SHARE:.0%}; {HBM / 1e12:.1f} TB/s of memory bandwidth, {HBM_SHARE:.0%} of it while decoding.
- A decoding step takes {LAYER_SECONDS * 1e3:.1f} ms a layer in transformers' generate, and
  {ENGINE_LAYER_SECONDS * 1e3:.1f} ms in an engine with CUDA graphs, or as long as it takes to read weights,
  keys and values.
- A rank sends {NETWORKS[8][1] / 1e9:.0f} GB/s over {NETWORKS[8][0]} (8 GPUs) and {NETWORKS[64][1] / 1e9:.0f} GB/s over
  {NETWORKS[64][0]} (64 GPUs). Nothing overlaps.
- A step has {RESPONSES} responses, prompts of {PROMPT_TOKENS} tokens, responses of {MEAN_RESPONSE} in the mean and
  {LONGEST_RESPONSE} at most; {NO_GRAD_PASSES} passes without gradient; activation checkpointing; at most
  4 rows a pass."""
    )
    print("\n## Memory and traffic")
    for with_lora in (False, True):
        for model in MODELS:
            memory_table(model, with_lora=with_lora)
    print("\nWhat is sent, Qwen2.5-7B on 8 GPUs, times 7/8:\n")
    shape = MODELS[1].shape
    for zero in (None, 1, 2, 3):
        print(f"- {name_of(zero, False)}: {traffic(shape, job_for(shape, 8, zero, False, with_lora=False))[1]}")
    print("\n## Time of a step, full fine-tuning")
    time_table(with_lora=False)
    print("\n## Time of a step, LoRA")
    time_table(with_lora=True)
    print("\n## Responses a GPU at which training takes as long as generation")
    balance_table()
    print("\n## On a slow network")
    ethernet_table()
    print("\n## The arithmetic of one cell: Qwen2.5-7B, 8 GPUs, ZeRO-2\n")
    for line in estimate(shape, job_for(shape, 8, 2, False, with_lora=False)).lines():
        print(f"    {line}")


if __name__ == "__main__":
    main()
