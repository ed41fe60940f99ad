"""The diagnosis of the T5-shaped student: what it counts, and that its command counts it."""

import importlib.util
import random
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import T5ForConditionalGeneration

from thinker_common.models import load_tokenizer
from tinythinker.stages import target_ids

SCRIPT = Path(__file__).parents[1] / "scripts/diagnose_t5.py"


@pytest.fixture
def diagnosis(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # as for a script that is run
    spec = importlib.util.spec_from_file_location("diagnose_t5", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("task", ["lookups", "analyses"])
def test_the_parts_of_a_target_are_its_tokens(diagnosis: ModuleType, task: str) -> None:
    tokenizer = load_tokenizer("embedded@1")
    for prompt, text, parts in islice(getattr(diagnosis, task)(random.Random(0)), 200):
        ids = target_ids(tokenizer, text, encoder_decoder=True)
        said = {
            part: tokenizer.decode([ids[t] for t in diagnosis.tokens_of(tokenizer, text, ids, places)]).strip()
            for part, places in parts.items()
        }
        assert said == {part: text[begin:end].strip() for part, (begin, end) in parts.items()}
        letter = prompt.reasoning.removesuffix(",")[-1]
        assert f"({letter}) {said['name']}" in prompt.question, "the name is that of the letter that is asked for"
        if task == "analyses":
            assert said["verdict"] in ("fits", "does")


def test_a_line_says_what_is_right(
    diagnosis: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few rows again and again are learnt by heart."""
    few = list(islice(diagnosis.lookups(random.Random(0)), 2))
    monkeypatch.setattr(diagnosis, "lookups", lambda rng: iter(few * 100))
    given = {"--batch": "2", "--steps": "60", "--every": "30", "--learning-rate": "1e-3"}
    monkeypatch.setattr(sys, "argv", ["diagnose_t5", "lookup", *(word for pair in given.items() for word in pair)])
    diagnosis.main()
    first, last = (line for line in capsys.readouterr().out.splitlines() if line.startswith("step"))
    assert first.startswith("step 30: ") and last.startswith("step 60: ")
    assert "name 100.0 %" in last and "name 100.0 %" not in first


def test_the_student_of_a_seed_differs_in_its_position_biases_alone(diagnosis: ModuleType, tmp_path: Path) -> None:
    own, spread = (
        T5ForConditionalGeneration.from_pretrained(_made(diagnosis, tmp_path / name, value))
        for name, value in (("own", 0.0), ("spread", 2.0))
    )
    differing = {
        name for name, weight in own.state_dict().items() if not torch.equal(weight, spread.state_dict()[name])
    }
    assert differing == {
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight" for stack in ("encoder", "decoder")
    }
    biases = spread.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert 1.5 < biases.std().item() < 2.5


def _made(diagnosis: ModuleType, folder: Path, spread: float) -> Path:
    diagnosis.make_t5(folder, 1, position_spread=spread)
    return folder
