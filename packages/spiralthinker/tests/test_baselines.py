"""The baselines: their annotations, the autoregressive schedule against whole passes, CODI's loss, runs of each."""

import json
from pathlib import Path

import latent_models as lm
import pytest
import torch
from test_latent_generation import Scripted, prompt_and_script, training_logprobs
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

from spiralthinker.annotation import Annotation, explicit
from spiralthinker.cli import app
from spiralthinker.columns import implicit_row, lay_out, with_rounds
from spiralthinker.config import MethodSettings, Settings
from spiralthinker.generation import LatentGenerator
from spiralthinker.model import SpiralThinkerModel
from spiralthinker.train import parts_of
from thinker_common.errors import SettingsError

DOUBLE = torch.float64
RUN = [
    "training.max_steps=4", "stage1.max_steps=1", "training.per_device_train_batch_size=4", "training.logging_steps=1",
    "data.limit=12", "method.latents=2", "method.iterations=2", "method.curriculum=2", "evaluation.limit=3",
    "evaluation.max_new_tokens=40",
]  # fmt: skip


def in_front(family: str = "gpt2", *, replaced: int | None = None, feedback: str = "adapter", **options):
    model = lm.latent_model(family, schedule="autoregressive", iterations=0, latents=3, feedback=feedback, **options)
    annotation = Annotation(latents=3, placement="front", replaced=replaced)
    model.settings = type(model.settings)(
        annotation=annotation, iterations=0, schedule="autoregressive", feedback=feedback
    )
    return model


def test_one_latent_step_in_front_stands_for_the_first_steps():
    model = in_front()
    example = Annotation(latents=3).example(model.tokenizer, lm.problems()[0])  # four steps
    marks = model.markers
    for replaced, stands_for, rest in ((2, 2, example.steps[2:]), (9, 4, ()), (None, 4, ())):
        annotation = Annotation(latents=3, placement="front", replaced=replaced)
        of_it = annotation.example(model.tokenizer, lm.problems()[0])
        [block] = annotation.blocks(of_it)
        assert (block.first, block.step) == (1, stands_for)
        assert explicit(of_it, marks).input_ids[block.eot] == marks.eot
        expected = [*of_it.prompt_ids, marks.bol, *[marks.latent] * 3, marks.eol]
        for step in rest:
            expected += [marks.bot, *step.ids, marks.eot]
        assert annotation.implicit(of_it, marks).input_ids == [*expected, *of_it.answer_ids]


def whole_passes(model, row):
    """Plain torch: every latent's embedding from a pass over all that stands before it; (nll, every layer's <eol>)."""
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
    decoder = model.base.get_decoder()
    embeds = model.base.get_input_embeddings()(ids)
    [bol] = row["bols"]
    for place in range(bol + 1, bol + 4):
        states = decoder(inputs_embeds=embeds[:, :place], use_cache=False).last_hidden_state
        embeds = torch.cat([embeds[:, :place], model.refine(states[:, -1:]), embeds[:, place + 1 :]], dim=1)
    output = decoder(inputs_embeds=embeds, use_cache=False, output_hidden_states=True)
    logits = model.base.get_output_embeddings()(output.last_hidden_state)[0]
    nll = cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum")
    return nll, torch.stack([layer[0, bol + 4] for layer in output.hidden_states[1:]])


@pytest.mark.parametrize("feedback", ["adapter", "state"])
@pytest.mark.parametrize("replaced", [1, None])
def test_one_at_a_time_equals_whole_passes_in_values_and_gradients(feedback, replaced):
    model = in_front(feedback=feedback, replaced=replaced, dtype=DOUBLE)
    some = lm.problems()[:3]
    batch = lm.batch(model, some)
    iterated, _ = model(batch)
    nll = model.nll(iterated.readings[-1], batch)
    nll.backward()
    found = {name: p.grad.clone() for name, p in model.base.named_parameters() if p.grad is not None}
    model.base.zero_grad()
    nlls, eols = zip(*(whole_passes(model, row) for row in lm.rows(model, some)), strict=True)
    torch.testing.assert_close(nll, torch.stack(nlls).sum(), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(iterated.eol_KLBCD[0, :, :, 0], torch.stack(eols, dim=1), atol=1e-9, rtol=1e-9)
    torch.stack(nlls).sum().backward()
    for name, p in model.base.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name], p.grad, atol=1e-9, rtol=1e-7, msg=name)
    used = any("adapter.outer" in name and grad.any() for name, grad in found.items())
    assert used == (feedback == "adapter")


@pytest.mark.parametrize("family", lm.FAMILIES)
def test_autoregressive_decoding_computes_what_training_computes(family):
    model = in_front(family, replaced=2)
    prompts, scripts = zip(*map(prompt_and_script, lm.rows(model)), strict=True)
    decoder = Scripted(model, scripts)
    decoder.generate(prompts)
    for place, expected in enumerate(training_logprobs(model, lm.problems())):
        assert decoder.logprobs[place] == pytest.approx(expected, abs=1e-5)
    assert decoder.token_passes == sum(len(p) + len(s) - 1 for p, s in zip(prompts, scripts, strict=True))
    assert decoder.latent_tokens == 3 * 3


def test_empty_rounds_change_nothing_here_either():
    model = in_front(dtype=DOUBLE)
    rows = lm.rows(model)[:2]
    batch = lay_out(rows, latents=3, pad_token_id=0)
    more = with_rounds(batch, 3, latents=3, pad_token_id=0)
    a, b = (model.nll(model(each)[0].readings[-1], each) for each in (batch, more))
    torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_the_explicit_version_is_read_as_by_itself():
    """CODI's teacher shares the prompt with the student: its likelihood is that of the explicit rows alone."""
    model = in_front(dtype=DOUBLE)
    annotation = model.settings.annotation
    examples = [annotation.example(model.tokenizer, problem) for problem in lm.problems()[:3]]
    rows = [implicit_row(annotation, example, model.markers, trains_teacher=True) for example in examples]
    batch = lay_out(rows, latents=3, pad_token_id=0)
    iterated, _ = model(batch)
    eot_LUD, states_BED, _ = model.explicit_version(batch, iterated.prefix)
    shared = iterated.prefix.length
    whole = {
        "mask": torch.cat([batch["mask"][:, :shared], batch["explicit_mask"]], dim=1),
        "labels": torch.cat([torch.full_like(batch["labels"][:, :shared], -100), batch["explicit_labels"]], dim=1),
    }
    nll = model.nll(torch.cat([iterated.readings[-1][:, :shared], states_BED], dim=1), whole)
    expected = 0.0
    for number, example in enumerate(examples):
        tokens = explicit(example, model.markers)
        output = model.base(torch.tensor([tokens.input_ids]), output_hidden_states=True)
        labels = torch.tensor(tokens.labels)
        expected += cross_entropy(output.logits[0, :-1], labels[1:], ignore_index=-100, reduction="sum")
        last = len(tokens.input_ids) - len(example.answer_ids) - 1
        states = torch.stack([layer[0, last] for layer in output.hidden_states[1:]])
        torch.testing.assert_close(eot_LUD[:, number], states, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(nll, expected, atol=1e-9, rtol=1e-9)
    nll.backward()
    assert model.base.get_input_embeddings().weight.grad.any()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"name": "spiral"}, ["explicit", "implicit"]),
        ({"name": "explicit"}, ["explicit"]),
        ({"name": "answer_only"}, ["explicit"]),
        ({"name": "pause"}, ["implicit"]),
        ({"name": "codi"}, ["implicit"]),
        ({"name": "coconut", "curriculum": 2}, ["explicit", "implicit 1", "implicit"]),
        ({"name": "coconut", "curriculum": 2, "stages": "implicit"}, ["implicit 1", "implicit"]),
    ],
)
def test_the_trainings_of_each_method(method, expected, tmp_path):
    parts = parts_of(Settings(method=MethodSettings(**method)), tmp_path)
    assert [part.name for part in parts] == expected
    assert parts[-1].path == tmp_path
    assert len({part.path for part in parts}) == len(parts)


def test_what_the_methods_models_are():
    def of(**method):
        return Settings(method=MethodSettings(latents=2, **method)).latent_settings

    assert of(name="pause")().iterations == 0
    first, last = of(name="coconut", curriculum=3)(1), of(name="coconut", curriculum=3)(3)
    assert (first.annotation.latents, first.annotation.replaced) == (2, 1)
    assert (last.annotation.latents, last.annotation.replaced) == (6, None)
    assert (last.feedback, last.schedule, last.iterations) == ("state", "autoregressive", 0)
    assert of(name="coconut", curriculum=3)() == last
    assert (of(name="codi")().feedback, of(name="codi")().annotation.latents) == ("adapter", 2)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "pause", "stages": "implicit"}, "stages = 'implicit': expected both, since pause has one stage"),
        ({"name": "codi", "teacher": "frozen"}, "teacher = 'frozen': expected live"),
        ({"name": "coconut", "curriculum": 0}, "curriculum = 0: expected at least 1"),
    ],
)
def test_contradictions_are_refused(method, message):
    with pytest.raises(SettingsError, match=message):
        MethodSettings(**method)


@pytest.mark.parametrize("name", ["answer_only", "pause", "coconut", "codi"])
def test_a_run_of_each(name: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    accumulated = ["training.gradient_accumulation_steps=2"] if name == "codi" else []
    arguments = ["train", "--output", str(output), *RUN, *accumulated, f"method.name={name}"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    stages = json.loads((output / "results.json").read_text())["stages"]
    steps = {stage: found["steps"] for stage, found in stages.items()}
    expected = {
        "answer_only": {"explicit": 1},
        "pause": {"implicit": 4},
        "codi": {"implicit": 4},
        "coconut": {"explicit": 1, "implicit 1": 2, "implicit": 2},
    }
    assert steps == expected[name]
    last = list(stages.values())[-1]
    assert last["token_passes"] > 0
    cost = last["evaluations"]["chains"]["cost_of_a_response"]
    assert cost["token_passes"] > 0 and cost["seconds"] > 0
    logged = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = [row for row in logged if "loss" in row]
    assert all(("explicit_cross_entropy" in row) == (name == "codi") for row in losses)
    if name == "codi":
        for row in losses:
            whole = row["cross_entropy"] + row["explicit_cross_entropy"] + row["alignment"]
            assert row["loss"] == pytest.approx(whole, abs=1e-4)
    model = SpiralThinkerModel.from_pretrained(output / "model")
    if name == "answer_only":
        assert stages["explicit"]["answer_only"] == 12
    else:
        prompts = [model.tokenizer("How many?")["input_ids"]]
        assert LatentGenerator(model, max_new_tokens=12).generate(prompts)
