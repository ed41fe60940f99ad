"""QLoRA: both phases train one adapter on base weights of 4 bits, which every folder of the run is found with."""

from pathlib import Path

import bitsandbytes
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_run import run, saved_student

from tinythinker._common import AnswerScorer, ScoringItem, load_settings, load_tokenizer
from tinythinker.config import Settings
from tinythinker.prepare import student_of
from tinythinker.student import load_student

LORA = ["model.quantization=4bit", "model.lora.r=2"]
TARGETS = {"causal": [], "t5": ["model.lora.target_modules=[q, v]"]}


@pytest.mark.parametrize("kind", list(TARGETS))
def test_both_phases(kind: str, tmp_path: Path) -> None:
    overrides = [*LORA, *TARGETS[kind], "method.acquisition.max_steps=2", "method.reflection.iterations=1"]
    base = saved_student(tmp_path / "student", kind)
    results = run(tmp_path / "run", base, *overrides)
    assert [phase["steps"] for phase in results["phases"].values()] == [2, 3]
    learned, reflected = (
        load_file(tmp_path / "run" / name / "model" / "adapter_model.safetensors")
        for name in ("acquisition", "iteration-1")
    )
    assert learned.keys() == reflected.keys() and any(
        learned[name].abs().max() > 0 for name in learned if "lora_B" in name
    )
    assert any(not torch.equal(learned[name], reflected[name]) for name in learned), "phase 2 goes on with the adapter"
    assert all(weight.dtype == torch.float32 for weight in reflected.values())

    folder = tmp_path / "run" / "iteration-1" / "model"
    student = load_student(str(folder), dtype="float32")
    assert isinstance(student.model, PeftModel)
    assert any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in student.model.modules())
    settings = load_settings(
        Settings,
        recipe_text=None,
        recipe_name="",
        overrides=[f"model.name_or_path={base}", "model.dtype=float32", *LORA],
    )
    continued = student_of(folder, settings, seed=0)
    trainable = {name for name, parameter in continued.model.named_parameters() if parameter.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    tokenizer = load_tokenizer(folder)
    items = [
        ScoringItem(tokenizer("Which one?")["input_ids"], [], tokenizer(answer)["input_ids"]) for answer in ("A", "(B)")
    ]
    one, other = (
        [score.sum for score in AnswerScorer(found.model.eval(), tokenizer).score(items)]
        for found in (student, continued)
    )
    assert one == pytest.approx(other, abs=1e-5)
