"""An estimate of what one rank needs, with the arithmetic: no torch, no model, only the numbers of both.

Two kinds of parts: what is there all the time (weights, optimiser, a reference model), and what a phase adds (forward
and backward, the optimiser's step, a rollout). The peak is the first plus the largest of the second. Not counted:
what importing the libraries takes, what the CUDA context takes (about half a GiB), and fragmentation.

Where DeepSpeed trains, its bf16 mode holds weights and gradients in bfloat16 and a float32 copy with the optimiser.
Without it trained weights are float32, and autocast computes in bfloat16. The activation formula is that of a Llama
block in transformers with SDPA attention; `scripts/measure_training_memory.py` compares the sum with measured peaks.
"""

from dataclasses import dataclass
from typing import Any, Literal

GIB = 2**30
_LIVE_PARAMETERS = 10**9  # stage3_max_live_parameters and max_reuse_distance of the presets
_SUB_GROUP = 10**9  # parameters that ZeRO-3 steps at a time
_QUANTIZED_BYTES = 0.516  # of a weight of 4 bits: blocks of 64 have a scale of 8 bits, 256 of these one of 32 bits
_CHUNK_TOKENS = 256  # positions whose logits are there at once; likelihood.logprobs.CHUNK_TOKENS


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder-only model that memory and time depend on."""

    parameters: int
    trainable: int  # with LoRA, the adapter's
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    quantized: int = 0  # frozen ones of 4 bits

    @classmethod
    def of(cls, config: Any, *, parameters: int, trainable: int, quantized: int = 0) -> "ModelShape":
        """From a configuration of transformers and the counted parameters."""
        config = config.get_text_config()
        names = config.to_dict()
        heads = names["num_attention_heads"]
        hidden = names["hidden_size"]
        return cls(
            parameters=parameters,
            trainable=trainable,
            hidden=hidden,
            intermediate=names.get("intermediate_size") or 4 * hidden,
            layers=names["num_hidden_layers"],
            heads=heads,
            kv_heads=names.get("num_key_value_heads") or heads,
            head_dim=names.get("head_dim") or hidden // heads,
            vocab=names["vocab_size"],
            quantized=quantized,
        )

    @property
    def frozen(self) -> int:
        return self.parameters - self.trainable

    @property
    def embedding(self) -> int:
        """The largest single parameter."""
        return self.vocab * self.hidden


@dataclass(frozen=True)
class Job:
    """How a model is trained."""

    micro_batch: int  # rows of a forward pass
    tokens: int  # of the longest row, prompt and response
    accumulation: int = 1
    ranks: int = 1
    zero: int | None = None  # None: DDP, or one plain process
    offload: bool = False
    bf16: bool = False
    checkpointing: bool = False
    reference: bool = False  # a second model, for a KL term without LoRA
    rollout_rows: int = 0  # responses that a rank samples at once
    scoring_tokens: int = 0  # padded tokens of a forward pass without gradient


@dataclass(frozen=True)
class Part:
    """One summand. `always`: all the time; otherwise the phase that it belongs to."""

    name: str
    bytes: float
    why: str
    phase: Literal["always", "forward and backward", "optimiser step", "rollout"]
    where: Literal["device", "host"] = "device"


@dataclass(frozen=True)
class Estimate:
    """The parts of one rank's memory. On CPU ranks device and host are one memory: the sum of both counts."""

    parts: tuple[Part, ...]

    def peak(self, where: Literal["device", "host", "both"] = "device") -> float:
        """Bytes at the highest point."""
        return self._sum("always", where) + max((self._sum(phase, where) for phase in self.phases()), default=0.0)

    def phases(self) -> list[str]:
        return list(dict.fromkeys(part.phase for part in self.parts if part.phase != "always"))

    def lines(self) -> list[str]:
        """The arithmetic, a part a line, and the peak."""
        width = max(len(part.name) for part in self.parts)
        lines = []
        for phase in ["always", *self.phases()]:
            lines.append(f"{phase}:")
            for part in self.parts:
                if part.phase == phase:
                    on_host = " (host)" if part.where == "host" else ""
                    lines.append(f"  {part.name:<{width}} {_size(part.bytes):>10}  = {part.why}{on_host}")
        highest = max(self.phases(), key=lambda phase: self._sum(phase, "device"))
        host = self.peak("host")
        lines.append(
            f"peak a rank: {_size(self.peak())} in {highest}"
            + (f"; in the host's memory {_size(host)}" if host else "")
        )
        return lines

    def _sum(self, phase: str, where: str) -> float:
        return sum(part.bytes for part in self.parts if part.phase == phase and where in (part.where, "both"))


def estimate(shape: ModelShape, job: Job) -> Estimate:
    """What one rank needs for this job."""
    return Estimate(tuple(part for part in [*_states(shape, job), *_phases(shape, job)] if part.bytes > 0))


# --------------------------------------------------------------------------------------------------------- all the time


def _states(shape: ModelShape, job: Job) -> list[Part]:
    deepspeed = job.zero is not None
    share = _Share(job)
    trained, frozen, quantized = shape.trainable, shape.frozen - shape.quantized, shape.quantized
    compute = 2 if job.bf16 else 4
    weight = compute if deepspeed else 4
    parts = [
        Part(
            "weights",
            share.weights(trained * weight + frozen * compute + quantized * _QUANTIZED_BYTES),
            f"{_count(trained)} x {weight} B"
            + (f" + {_count(frozen)} frozen x {compute} B" if frozen else "")
            + (f" + {_count(quantized)} quantized x {_QUANTIZED_BYTES} B" if quantized else "")
            + share.said("weights"),
            "always",
            "host" if job.offload and job.zero == 3 else "device",
        )
    ]
    if deepspeed and (job.bf16 or job.zero):
        parts.append(
            Part(
                "float32 copy",
                share.optimiser(4 * trained),
                f"{_count(trained)} x 4 B" + share.said("optimiser"),
                "always",
                "host" if job.offload else "device",
            )
        )
    parts.append(
        Part(
            "Adam's moments",
            share.optimiser(8 * trained),
            f"{_count(trained)} x 2 x 4 B" + share.said("optimiser"),
            "always",
            "host" if job.offload else "device",
        )
    )
    if not deepspeed and job.ranks > 1:
        parts.append(Part("DDP buckets", 4 * trained, f"{_count(trained)} x 4 B", "always"))
    if job.reference:
        parts.append(
            Part(
                "reference model",
                share.weights(weight * shape.parameters),
                f"{_count(shape.parameters)} x {weight} B" + share.said("weights"),
                "always",
            )
        )
    return parts


@dataclass(frozen=True)
class _Share:
    """What a ZeRO stage divides by the number of ranks: optimiser from 1 on, gradients from 2 on, weights with 3."""

    job: Job

    def _divided(self, bytes_: float, stage: int) -> float:
        return bytes_ / self.job.ranks if (self.job.zero or 0) >= stage else bytes_

    def optimiser(self, bytes_: float) -> float:
        return self._divided(bytes_, 1)

    def gradients(self, bytes_: float) -> float:
        return self._divided(bytes_, 2)

    def weights(self, bytes_: float) -> float:
        return self._divided(bytes_, 3)

    def said(self, what: Literal["optimiser", "gradients", "weights"]) -> str:
        stage = {"optimiser": 1, "gradients": 2, "weights": 3}[what]
        return f", / {self.job.ranks} ranks" if (self.job.zero or 0) >= stage and self.job.ranks > 1 else ""


# ----------------------------------------------------------------------------------------------------------- the phases


def _phases(shape: ModelShape, job: Job) -> list[Part]:
    deepspeed = job.zero is not None
    share = _Share(job)
    trained = shape.trainable
    compute = 2 if job.bf16 else 4
    gradient = compute if deepspeed else 4
    gradients = Part(
        "gradients",
        share.gradients(gradient * trained),
        f"{_count(trained)} x {gradient} B" + share.said("gradients"),
        "forward and backward",
    )
    rows, per_token, formula = job.micro_batch, *activation_bytes(shape, job)
    activations = rows * job.tokens * per_token
    # Gradients come while activations go, but seldom into the room that these leave: both are counted in full.
    parts = [
        gradients,
        Part("activations", activations, f"{rows} rows x {job.tokens} tokens x {formula}", "forward and backward"),
        _logits(shape, min(_CHUNK_TOKENS, rows * job.tokens), "forward and backward"),
    ]
    live = min(shape.parameters, _LIVE_PARAMETERS)
    if job.zero == 3 and job.ranks > 1:
        parts.append(Part("gathered weights", live * compute, f"{_count(live)} x {compute} B", "forward and backward"))
    if job.bf16 and not deepspeed:
        parts.append(Part("weights, cast", 2 * trained, f"{_count(trained)} x 2 B (autocast)", "forward and backward"))

    step = Part(gradients.name, gradients.bytes, gradients.why, "optimiser step")
    parts.append(step)
    if job.zero:
        stepped = min(share.optimiser(trained), _SUB_GROUP) if job.zero == 3 else share.optimiser(trained)
        parts.append(
            Part(
                "gradients, float32",
                4 * stepped,
                f"{_count(stepped)} x 4 B",
                "optimiser step",
                "host" if job.offload else "device",
            )
        )

    if job.rollout_rows:
        parts.extend(_rollout(shape, job, compute))
    return parts


def _rollout(shape: ModelShape, job: Job, compute: int) -> list[Part]:
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim
    parts = [
        Part(
            "keys and values",
            job.rollout_rows * job.tokens * cache * compute,
            f"{job.rollout_rows} rows x {job.tokens} tokens x {shape.layers} layers x 2 x "
            f"{shape.kv_heads * shape.head_dim} x {compute} B",
            "rollout",
        ),
        _logits(shape, job.rollout_rows, "rollout"),
    ]
    if job.zero == 3 and job.ranks > 1:
        parts.append(
            Part("gathered weights", shape.parameters * compute, f"{_count(shape.parameters)} x {compute} B", "rollout")
        )
    if job.bf16 and job.zero is None:
        parts.append(
            Part("weights, cast", 2 * shape.trainable, f"{_count(shape.trainable)} x 2 B (autocast)", "rollout")
        )
    if job.scoring_tokens:
        width = 4 * shape.hidden + 3 * shape.intermediate
        parts.append(
            Part(
                "scoring",
                job.scoring_tokens * width * compute,
                f"{job.scoring_tokens} tokens x (4 x {shape.hidden} + 3 x {shape.intermediate}) x {compute} B",
                "rollout",
            )
        )
    return parts


def activation_bytes(shape: ModelShape, job: Job) -> tuple[float, str]:
    """(bytes a token, the formula): what the backward pass needs of the forward pass.

    A block keeps, for each token: of its two norms the input in float32, the normalised and the scaled vector; queries,
    keys and values (repeated for the query heads), the output of attention and its copy in the projection's layout;
    four vectors of the MLP. With activation checkpointing only each block's input stays, and one block at a time is
    computed again.
    """
    compute = 2 if job.bf16 else 4
    width = shape.heads * shape.head_dim
    block = 2 * (4 + 2 * compute) * shape.hidden + compute * (5 * width + 4 * shape.intermediate)
    inner = (
        f"({2 * (4 + 2 * compute)} x {shape.hidden} + {5 * compute} x {width} + {4 * compute} x {shape.intermediate})"
    )
    if job.checkpointing:
        kept = shape.layers * compute * shape.hidden
        return kept + block, f"({shape.layers} layers x {compute} x {shape.hidden} + one block {inner}) B"
    return shape.layers * block, f"{shape.layers} layers x {inner} B"


def _logits(shape: ModelShape, positions: int, phase: Literal["forward and backward", "rollout"]) -> Part:
    """Logits, their log-softmax, and its gradient or the sampler's sorted copy."""
    return Part("logits", 3 * 4 * positions * shape.vocab, f"{positions} positions x {shape.vocab} x 3 x 4 B", phase)


# -------------------------------------------------------------------------------------------------------------- traffic


def traffic(shape: ModelShape, job: Job) -> tuple[float, str]:
    """(bytes a rank sends in one optimiser step, the arithmetic). Each collective sends (N - 1) / N of its tensor.

    DDP all-reduces float32 gradients once (twice their size). ZeRO-1 reduces once, ZeRO-2 and 3 after every backward
    pass; the new weights are gathered once. ZeRO-3 gathers the weights for every forward and every backward pass, and
    once for both where all of them may stay (`_LIVE_PARAMETERS`).
    """
    n = job.ranks
    if n == 1:
        return 0.0, "one rank"
    compute = 2 if job.bf16 else 4
    trained, whole = shape.trainable, shape.parameters
    part = (n - 1) / n
    if job.zero is None:
        return 2 * 4 * trained * part, f"2 x {_count(trained)} x 4 B"
    if job.zero == 0:
        return 2 * compute * trained * part, f"2 x {_count(trained)} x {compute} B"
    if job.zero in (1, 2):
        reductions = 1 if job.zero == 1 else job.accumulation
        return (reductions + 1) * compute * trained * part, f"({reductions} + 1) x {_count(trained)} x {compute} B"
    gathers = 1 if whole <= _LIVE_PARAMETERS else 2
    text = f"{job.accumulation} x ({gathers} x {_count(whole)} + {_count(trained)}) x {compute} B"
    return job.accumulation * (gathers * whole + trained) * compute * part, text


# ---------------------------------------------------------------------------------------------------------------- words


def _size(bytes_: float) -> str:
    return f"{bytes_ / GIB:.2f} GiB" if bytes_ >= 0.1 * GIB else f"{bytes_ / 2**20:.1f} MiB"


def _count(number: float) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.1f} M"


def llama_parameters(shape: ModelShape, *, tied: bool, attention_bias: bool = False) -> int:
    """Parameters of a Llama-like model (Qwen2.5 with `attention_bias`), to plan with before anything is loaded."""
    width, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    block = shape.hidden * (2 * width + 2 * kv) + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden
    block += (width + 2 * kv) if attention_bias else 0
    return shape.layers * block + shape.embedding * (1 if tied else 2) + shape.hidden
