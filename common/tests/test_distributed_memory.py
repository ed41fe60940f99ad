"""The memory estimate against figures that others have published, against itself, and against a real run (slow)."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from thinker_common.distributed import memory
from thinker_common.distributed.deepspeed_config import preset
from thinker_common.distributed.memory import GIB, Job, ModelShape, estimate, llama_parameters, traffic
from thinker_common.likelihood.logprobs import CHUNK_TOKENS

SCRIPT = Path(__file__).parents[1] / "scripts" / "measure_training_memory.py"
SEVEN = ModelShape(7_500_000_000, 7_500_000_000, 4096, 11008, 32, 32, 32, 128, 32000)
QWEN = ModelShape(0, 0, 1536, 8960, 28, 12, 2, 128, 151936)
JOB = Job(micro_batch=1, tokens=1, ranks=64, bf16=True)
STATES = ("weights", "float32 copy", "Adam's moments", "gradients")


def states(shape, job, where="device"):
    parts = estimate(shape, job).parts
    return sum(
        part.bytes for part in parts
        if part.name in STATES and part.where == where and part.phase in ("always", "optimiser step")
    )  # fmt: skip


def test_what_it_counts_with_is_what_runs():
    """The estimate loads neither torch nor a preset, so that it has these numbers again."""
    assert memory._CHUNK_TOKENS == CHUNK_TOKENS
    section = preset(3, offload=False)["zero_optimization"]
    assert section["stage3_max_live_parameters"] == section["stage3_max_reuse_distance"] == memory._LIVE_PARAMETERS


@pytest.mark.parametrize(("zero", "gigabytes"), [(None, 120), (0, 120), (1, 31.4), (2, 16.6), (3, 1.88)])
def test_states_are_those_of_the_zero_paper(zero, gigabytes):
    """Rajbhandari et al. 2020 (arXiv 1910.02054), figure 1: 7.5 B parameters, 64 GPUs, mixed precision with Adam."""
    assert states(SEVEN, replace(JOB, zero=zero)) / 1e9 == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize(("zero", "times"), [(1, 2), (2, 2), (3, 3)])
def test_traffic_is_that_of_the_zero_paper(zero, times):
    """Section 7 of it: as much as plain data parallelism up to stage 2, one and a half times as much with stage 3."""
    sent, _ = traffic(SEVEN, replace(JOB, zero=zero))
    assert sent == pytest.approx(times * 7.5e9 * 2 * 63 / 64)


@pytest.mark.parametrize(
    ("config", "tied", "bias", "parameters"),
    [
        (QWEN, True, True, 1_543_714_304),  # Qwen/Qwen2.5-1.5B-Instruct
        (ModelShape(0, 0, 3584, 18944, 28, 28, 4, 128, 152064), False, True, 7_615_616_512),  # Qwen2.5-7B-Instruct
        (ModelShape(0, 0, 576, 1536, 30, 9, 3, 64, 49152), True, False, 134_515_008),  # SmolLM2-135M
    ],
)
def test_parameters_are_counted_as_the_hub_has_them(config, tied, bias, parameters):
    assert llama_parameters(config, tied=tied, attention_bias=bias) == parameters


def test_shape_of_a_configuration():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    parameters = LlamaForCausalLM(config).num_parameters()
    shape = ModelShape.of(config, parameters=parameters, trainable=100)
    assert shape == ModelShape(parameters, 100, 32, 48, 2, 4, 2, 8, 64)
    assert llama_parameters(shape, tied=True) == parameters


def qwen(**changes):
    parameters = llama_parameters(QWEN, tied=True, attention_bias=True)
    return replace(QWEN, **{"parameters": parameters, "trainable": parameters, **changes})


def named(shape, job):
    return {(part.phase, part.name): part for part in estimate(shape, job).parts}


def test_a_reference_model_is_sharded_under_zero_3_only():
    job = Job(micro_batch=4, tokens=512, ranks=8, bf16=True, reference=True)
    sizes = {zero: named(qwen(), replace(job, zero=zero))["always", "reference model"].bytes for zero in (1, 2, 3)}
    assert sizes[1] == sizes[2] == 8 * sizes[3] == 2 * qwen().parameters
    lora = named(qwen(trainable=10_000_000), replace(job, zero=2, reference=False))
    assert ("always", "reference model") not in lora


def test_offload_moves_the_optimiser_and_with_stage_3_the_weights():
    job = Job(micro_batch=4, tokens=512, ranks=8, bf16=True)
    for zero, moved in ((2, {"float32 copy", "Adam's moments"}), (3, {"float32 copy", "Adam's moments", "weights"})):
        parts = estimate(qwen(), replace(job, zero=zero, offload=True)).parts
        assert {part.name for part in parts if part.where == "host" and part.phase == "always"} == moved
        kept = estimate(qwen(), replace(job, zero=zero)).peak("both")
        assert estimate(qwen(), replace(job, zero=zero, offload=True)).peak("both") == pytest.approx(kept)


def test_each_stage_needs_less_and_checkpointing_less_still():
    job = Job(micro_batch=4, tokens=1024, ranks=8, bf16=True)
    peaks = [estimate(qwen(), replace(job, zero=zero)).peak() for zero in (0, 1, 2, 3)]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == 4
    assert estimate(qwen(), replace(job, checkpointing=True)).peak() < estimate(qwen(), job).peak()


def test_a_long_rollout_becomes_the_peak():
    job = Job(micro_batch=1, tokens=2048, bf16=True, checkpointing=True)
    assert estimate(qwen(), job).lines()[-1].endswith("in forward and backward")
    long = replace(job, rollout_rows=1024)
    assert estimate(qwen(), long).lines()[-1].endswith("in rollout")
    cache = named(qwen(), long)["rollout", "keys and values"]
    assert cache.bytes == 1024 * 2048 * 28 * 2 * 256 * 2


def test_lines_add_up_and_show_the_arithmetic():
    estimated = estimate(qwen(), Job(micro_batch=4, tokens=512, ranks=8, zero=2, bf16=True))
    lines = estimated.lines()
    assert any(line.endswith("2.88 GiB  = 1.54 G x 2 B") for line in lines)
    assert any("1.54 G x 2 x 4 B, / 8 ranks" in line for line in lines)
    assert lines[-1].startswith(f"peak a rank: {estimated.peak() / GIB:.2f} GiB in ")
    for part in estimated.parts:  # what is written is what is counted
        arithmetic = part.why.replace(" G", "e9").replace(" M", "e6").replace(" ranks", "")
        for word in (" B", " rows", " tokens", " layers", " positions", " one block"):
            arithmetic = arithmetic.replace(word, "")
        value = eval(arithmetic.replace(" x ", " * ").replace(", /", " /"))
        assert value == pytest.approx(part.bytes, rel=0.01), part


def test_the_page_on_scaling_holds_what_its_command_prints():
    root = SCRIPT.parents[2]
    if not (root / "docs").is_dir():
        pytest.skip("not the whole repository")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, SCRIPT.with_name("plan_scaling.py")]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.removeprefix("Assumed:\n\n").strip() in (root / "docs" / "scaling.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
@pytest.mark.parametrize("case", ["one process", "zero2"])
def test_estimate_is_within_a_quarter_of_a_measured_peak(case, record_property):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--case", case],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    [row] = [line for line in done.stdout.splitlines() if line.startswith(f"| {case} |")]
    _, measured, estimated, ratio, _ = (cell.strip() for cell in row.strip("|").split("|"))
    assert 0.75 <= float(ratio) <= 1.25, row
    record_property(f"memory of training, {case}", f"measured {measured} GiB, estimated {estimated} GiB")
    assert json.loads(measured) > 1.0
