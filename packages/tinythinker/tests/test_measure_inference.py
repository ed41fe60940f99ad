"""The ways that the script compares write the same chains, from the same distribution; what it times and counts."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_students import KINDS, LENGTHS, questions, student

from tinythinker._common import load_settings, recipes
from tinythinker.config import GenerationSettings, Settings
from tinythinker.inference import Sampling, Start, reason, starts
from tinythinker.stages import recall_prompt
from tinythinker.student import Form, load_student

SCRIPT = Path(__file__).parents[1] / "scripts/measure_inference.py"
SPREAD: dict[str, dict[str, Any]] = {"t5": {"initializer_factor": 1.7}, "causal": {"initializer_range": 0.6}}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measure_inference", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_writes_the_same_greedy_chains(script: ModuleType, kind: str) -> None:
    taught, begun = student(kind), starts(questions(3), 2)
    with torch.no_grad():
        ours = [one.summary for one in reason(taught, begun, sampled=(), sampling=Sampling())]
        for way, ideas in script.PLAIN.items():
            for batch in (1, 3, 64):
                assert script.Passes(taught, batch, **ideas).chains(begun, (), 2) == ours, (way, batch)
        with script.rows_stay():
            assert [one.summary for one in reason(taught, begun, sampled=(), sampling=Sampling())] == ours


@pytest.mark.parametrize("kind", KINDS)
def test_draws_of_every_way_have_the_models_probabilities(script: ModuleType, kind: str) -> None:
    """Whole recalls of three tokens after two prompts, the likeliest by count against their probability at 0.7."""
    form = Form(chat_template="none", generation=GenerationSettings(3, 2, 2, 4096))
    taught, asked, draws = student(kind, form=form, **SPREAD[kind]), questions(2), 400
    begun = starts(asked, draws)
    torch.manual_seed(0)
    with torch.no_grad():
        prompts = [recall_prompt(start.question) for start in begun]
        drawn = {
            way: script.Passes(taught, 256, **script.PLAIN[way]).texts(prompts, 3, True) for way in ("once", "shared")
        }
        tokens = texts_of(script, taught, begun, drawn)
        for number, question in enumerate(asked):
            own = slice(number * draws, (number + 1) * draws)
            likeliest = probabilities(taught, recall_prompt(question), tokens[own])
            assert len(likeliest) > 3
            for way, texts in drawn.items():
                counts = Counter(texts[own])
                for text, p in likeliest[:5]:
                    assert abs(counts[text] / draws - p) < 5 * (p * (1 - p) / draws) ** 0.5, (
                        way,
                        text,
                        p,
                        counts[text],
                    )


def texts_of(script: ModuleType, taught: Any, begun: list[Start], drawn: dict[str, list[str]]) -> list[tuple[int, ...]]:
    """Token ids of our draws; their texts go into `drawn`, with rows that stay and with rows that leave."""
    from tinythinker import inference

    requests = [inference.Request(recall_prompt(one.question), f"{one.question.id}/{one.draw}") for one in begun]
    writer = inference._Writer(taught, Sampling(temperature=0.7, seed=3), None, None)
    leaving = writer.texts("recall", requests, 3)
    with script.rows_stay():
        staying = writer.texts("recall", requests, 3)
    drawn["rows leave"], drawn["our loop"] = ([text.text for text in texts] for texts in (leaving, staying))
    return [text.token_ids for text in leaving]


def probabilities(taught: Any, prompt: Any, seen: list[tuple[int, ...]]) -> list[tuple[str, float]]:
    """The likeliest texts among those seen, with the sum over the token sequences that are seen to spell them."""
    ids, eos = taught.prompt_ids(prompt), taught.tokenizer.eos_token_id
    found: Counter[str] = Counter()
    for tokens in dict.fromkeys(seen):
        target = [*tokens, eos][:3]  # the third token is the last, whatever it is
        if taught.encoder_decoder:
            decoder = torch.tensor([[taught.decoder_start, *target[:-1]]])
            logits = taught.model(input_ids=torch.tensor([ids]), decoder_input_ids=decoder).logits[0]
        else:
            logits = taught.model(input_ids=torch.tensor([[*ids, *target[:-1]]])).logits[0, len(ids) - 1 :]
        logprobs = (logits / 0.7).log_softmax(-1).gather(-1, torch.tensor(target)[:, None])
        text = " ".join(taught.tokenizer.decode(list(tokens)).split())
        found[text] += float(logprobs.sum().exp())
    return found.most_common()


def test_what_is_counted_is_what_the_ideas_save(script: ModuleType) -> None:
    """Ten recalls of one prompt: `once` encodes it ten times, `shared` once."""
    taught, [question] = student("t5"), questions(1)
    prompt = len(taught.prompt_ids(recall_prompt(question)))
    found = {}
    for way in ("once", "shared"):
        with script.counted(taught.model) as counts, torch.no_grad():
            script.Passes(taught, 64, **script.PLAIN[way]).texts([recall_prompt(question)] * 10, 8, True)
        found[way] = counts["encoder tokens"]
    assert (found["once"], found["shared"]) == (10 * prompt, prompt)
    assert not taught.model.encoder._forward_hooks, "nothing is left to slow a timed run"


def test_every_way_is_timed_at_a_batch_of_its_own_and_without_hooks(script: ModuleType, monkeypatch: Any) -> None:
    taught, begun = student("t5"), starts(questions(3), 2)
    monkeypatch.setattr(script, "BATCH_SIZES", (4, 8))
    monkeypatch.setattr(script, "BUDGETS", (2048, 4096))
    hooked: list[bool] = []
    own = script.seconds

    def watched(work: Any) -> float:
        hooked.append(bool(taught.model.decoder._forward_hooks))
        return own(work)

    monkeypatch.setattr(script, "seconds", watched)
    found = script.measure(taught, begun, ("recall",), 2, 1)
    assert list(found) == list(script.WAYS) and not any(hooked)
    assert all(one["batch"] in ((4, 8) if way in script.PLAIN else (2048, 4096)) for way, one in found.items())
    assert all(one["seconds"] > 0 and one["operations"] > 0 and one["encoder tokens"] > 0 for one in found.values())
    assert {way for way, one in found.items() if "seconds at the first batch" in one} == set(script.PLAIN)
    text = script.table({"vote": found})
    assert all(len(line.split("|")) == len(text.splitlines()[0].split("|")) for line in text.splitlines()[:5])


def test_the_gain_is_split_by_cause(script: ModuleType) -> None:
    steps = dict(zip(script.WAYS, (60.0, 40.0, 20.0, 10.0, 8.0, 6.0), strict=True))
    own = {
        way: {"seconds": s, "batch": 16, "operations": s, "encoder tokens": 1000, "decoder tokens": 2000}
        for way, s in steps.items()
    }
    own["shared"]["seconds at the first batch"] = 15.0
    lines = script.table({"vote": own}).splitlines()
    gains = "60.0 s | 40.0 s x 1.50 | 20.0 s x 2.00 | 10.0 s x 2.00 | 8.0 s x 1.25 | 6.0 s x 1.33 | x 10.00 |"
    assert lines[2] == f"| vote | {gains}"
    assert lines[4] == "| in batches of the first |  |  |  | 15.0 s |  |  | |"
    assert lines[-1] == "| operations, ten passes / this | 1.00 | 1.50 | 3.00 | 6.00 | 7.50 | 10.00 |"


def test_the_student_to_measure_is_trained_by_a_command(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    ran: list[list[str]] = []
    monkeypatch.setattr(script.subprocess, "run", lambda command, **_: ran.append(command))
    monkeypatch.setattr(sys, "argv", ["measure_inference", "--make", str(tmp_path / "t5"), "--steps", "300"])
    script.main()
    text = recipes.recipe_text("tinythinker", "embedded")
    overrides = [one for one in ran[0] if "=" in one]
    settings = load_settings(Settings, recipe_text=text, recipe_name="embedded", overrides=overrides)
    acquisition = settings.method.acquisition
    assert (settings.method.iterations, acquisition.max_steps, acquisition.learning_rate) == (0, 300, 3e-4)
    student = load_student(settings.model.name_or_path)
    assert student.encoder_decoder and 2.3e6 < student.model.num_parameters() < 2.5e6


def test_a_shape_is_not_measured_alone(script: ModuleType, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["measure_inference", "--shape", "t5-small"])
    with pytest.raises(SystemExit):
        script.main()
    assert "--shape is measured beside a student" in capsys.readouterr().err
    assert LENGTHS.recall_tokens < script.command_line().parse_args(["x"]).lengths[0]
