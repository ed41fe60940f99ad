"""Controls at test time, the verbs `evaluate` and `inspect`, and what they write."""

import json
import re

import latent_models as lm
import pytest
import torch
from typer.testing import CliRunner

from spiralthinker.cli import app
from spiralthinker.controls import Exchange, exchange
from spiralthinker.generation import LatentGenerator, Response
from spiralthinker.inspection import inspect_problem
from spiralthinker.inspection_view import write_inspection
from spiralthinker.model import SpiralThinkerModel
from spiralthinker.sweep import Point, points
from thinker_common.benchmarks.problem import Problem
from thinker_common.errors import SettingsError, UserError


class Willing(LatentGenerator):
    """Begins with a latent step, writes a token, and takes another."""

    def choose(self, logits_BV, responses):
        logits_BV = logits_BV.clone()
        for place, response in enumerate(responses):
            written = [token for token in response.token_ids if token != self.model.markers.latent]
            logits_BV[place, self.model.markers.bol] = 1e4 if len(written) in (0, 3) else -1e4
            logits_BV[place, self.model.tokenizer.eos_token_id] = -1e4
        return super().choose(logits_BV, responses)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of few steps on the embedded model."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = [
        "train", "--output", str(folder), "training.max_steps=12", "stage1.max_steps=12", "data.limit=64",
        "training.per_device_train_batch_size=8", "method.latents=2", "method.iterations=2", "evaluation.at_end=false",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder / "model"


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def takers(*present):
    return [Response(place, 0, (1,), 0) if here else None for place, here in enumerate(present)]


def test_what_a_control_exchanges():
    latents = torch.arange(12.0).reshape(3, 2, 2)
    shuffled = Exchange("shuffled", at=2)
    assert torch.equal(shuffled(latents, 1, takers(1, 1, 1)), latents), "not the last iteration"
    assert torch.equal(shuffled(latents, 2, takers(1, 0, 1))[[0, 1, 2]], latents[[2, 1, 0]])
    assert torch.equal(shuffled(latents, 2, takers(0, 1, 0))[1], latents[1].flip(0)), "alone: its own, reversed"
    assert not Exchange("zeroed", at=None)(latents, 1, takers(1, 1, 1)).any()


@pytest.mark.parametrize("decoding", ["sequential", "simultaneous"])
def test_a_control_changes_what_follows_and_not_what_stands_before(decoding):
    model = lm.latent_model(iterations=2, latents=2, dtype=torch.float64)
    prompts = [[3, 4, 5], [6, 7], [8, 9, 10, 11]]
    logits = {}
    for control in (None, "shuffled", "zeroed"):
        seen = []

        class Noting(Willing):
            def choose(self, logits_BV, responses, seen=seen):
                seen.append(logits_BV.clone())
                return super().choose(logits_BV, responses)

        generator = Noting(model, max_new_tokens=12, decoding=decoding)
        if control is not None:
            exchange(generator, control)
        generator.generate(prompts)
        logits[control] = seen
    for control in ("shuffled", "zeroed"):
        torch.testing.assert_close(logits[control][0], logits[None][0])
        assert not torch.allclose(logits[control][1], logits[None][1], atol=1e-3)


def test_pause_tokens_have_nothing_to_exchange():
    generator = LatentGenerator(lm.latent_model(iterations=0), max_new_tokens=4)
    with pytest.raises(SettingsError, match="expected at least one iteration"):
        exchange(generator, "zeroed")


def test_points_of_a_sweep():
    model = lm.latent_model(iterations=2, latents=3)
    assert points(model) == [Point(3, 2, "sequential")]
    found = points(model, iterations=[0, 4], controls=[None, "zeroed"])
    assert [point.name for point in found] == [
        "N3-K0-sequential", "N3-K0-sequential-zeroed", "N3-K4-sequential", "N3-K4-sequential-zeroed",
    ]  # fmt: skip


def test_evaluate_at_several_points(saved, tmp_path):
    folder = tmp_path / "scores"
    command = [
        "evaluate", saved, "--benchmark", "chains", "--limit", "4", "--iterations", "1,2", "--control",
        "none,zeroed", "--max-new-tokens", "40", "--output", folder,
    ]  # fmt: skip
    printed = invoke(*command)
    assert re.search(r"chains\s+N2-K1-sequential-zeroed\s+4 ", printed)
    found = json.loads((folder / "results.json").read_text())["points"]
    assert [(point["iterations"], point["control"]) for point in found] == [
        (1, None), (1, "zeroed"), (2, None), (2, "zeroed"),
    ]  # fmt: skip
    for point in found:
        assert point["schedule"] == "sequential"
        assert point["decoding"]["max_new_tokens"] == 40
        assert point["responses"] == point["n"] == 4
        assert point["cost_of_a_response"]["token_passes"] > point["mean_tokens"]
        assert point["standard_error"] >= 0
    assert "Accuracy against K" in (folder / "report.html").read_text()
    again = json.loads(invoke(*command, "--json").partition("{")[2].join(["{", ""]))["points"]
    assert [point["responses"] for point in again] == [0] * 4, "nothing is generated twice"
    assert [point["accuracy"] for point in again] == [point["accuracy"] for point in found]

    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):  # something else than an evaluation lies there
        invoke(*command)
    (folder / "notes.txt").unlink()
    compared(saved, folder, tmp_path)


def compared(saved, earlier, tmp_path):
    """Each point with the same one of an earlier evaluation, on the problems that both have."""
    common = ["--max-new-tokens", "40", "--compare", earlier]
    command = ["evaluate", saved, "--benchmark", "chains", "--limit", "4", *common]
    printed = invoke(*command, "--iterations", "1,2", "--output", tmp_path / "later")
    assert printed.count("exact McNemar p = 1, n = 4") == 2
    for point in json.loads((tmp_path / "later/results.json").read_text())["points"]:
        assert point["compared_with"] == str(earlier)
        assert (point["comparison"]["difference"], point["comparison"]["n"]) == (0, 4)
    assert "paired" in (tmp_path / "later/report.html").read_text()
    for given, message in (
        (["--iterations", "3"], "has no responses at N2-K3-sequential; it has N2-K1-sequential, N2-K1-seq"),
        (["--max-new-tokens", "41"], "they differ in the decoding .max_new_tokens. .40 and 41."),
        (["--compare", tmp_path], "has no responses at N2-K2-sequential; it has none"),
    ):
        with pytest.raises(UserError, match=message):
            invoke(*command, *given, "--output", tmp_path / "none")
        assert not (tmp_path / "none").exists()


def test_evaluate_on_a_file_of_ones_own(saved, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i} + 1?", "answer": str(i + 1)}) + "\n" for i in range(3)))
    invoke(
        "evaluate", saved, "--file", file, "--column", "question=prompt", "--max-new-tokens", "8", "--output",
        tmp_path / "scores",
    )  # fmt: skip
    [point] = json.loads((tmp_path / "scores" / "results.json").read_text())["points"]
    assert (point["benchmark"], point["n"]) == ("mine", 3)


def test_inspection_is_of_what_generation_had():
    """The head at `<eol>` of the last reading names the token that generation chose there."""
    for options in (
        {"iterations": 2},
        {"iterations": 2, "schedule": "simultaneous"},
        {"iterations": 0},
        {"iterations": 0, "schedule": "autoregressive"},
    ):
        model = lm.latent_model("gpt2", latents=2, **options)
        seen = []
        embed = model.refine

        def noting(states, embed=embed, seen=seen):
            seen.append(embed(states))
            return seen[-1]

        model.refine = noting
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("spiralthinker.inspection.LatentGenerator", Willing)
            found = inspect_problem(model, lm.problems()[0], max_new_tokens=14)
        assert len(found.steps) == 2
        readings = options["iterations"] + 1
        assert all(len(step.at) == readings and len(step.at[0]) == 2 for step in found.steps)
        assert found.steps[0].stands_for.startswith("step 1: w8 w9")
        assert found.steps[1].stands_for.startswith("step 3: w13")
        assert all(len(step.alignment) == readings for step in found.steps)
        if options["iterations"]:
            assert found.steps[0].at[0][0].nearest[0] == ("<latent>", pytest.approx(1.0))
            assert found.steps[0].at[1][0].change > 0
        # Generation, and the two readings of the inspection, refined to the same embeddings.
        third = len(seen) // 3
        generated = seen[:third]
        if options.get("schedule") == "simultaneous":  # generation goes step by step, training iteration by iteration
            generated = [generated[step * 2 + k] for k in range(2) for step in range(2)]
        for first, second, other in zip(generated, seen[third : 2 * third], seen[2 * third :], strict=True):
            torch.testing.assert_close(second, other)
            torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("schedule", ["sequential", "simultaneous"])
def test_with_a_shift_the_head_speaks_at_the_token_before_in_every_reading(schedule):
    """Of the first latent that is `<bol>`, which all readings of the first latent step have alike."""
    model = lm.latent_model("gpt2", latents=2, iterations=2, shift=1, schedule=schedule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spiralthinker.inspection.LatentGenerator", Willing)
        found = inspect_problem(model, lm.problems()[0], max_new_tokens=14)
    first, *later = (reading[0].says for reading in found.steps[0].at)
    for says in later:
        assert [token for token, _ in says] == [token for token, _ in first]
        assert [share for _, share in says] == pytest.approx([share for _, share in first], abs=1e-5)
    assert found.steps[0].at[0][1].says != found.steps[0].at[1][1].says, "what the first latent changes"


def test_the_page_escapes_and_is_complete(tmp_path):
    model = lm.latent_model("gpt2", latents=2, iterations=2)
    problem = Problem("x", "<script>alert(1)</script> w1", "<b>w2</b>", "text", steps=("w3 <img src=x>", "w4"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spiralthinker.inspection.LatentGenerator", Willing)
        found = inspect_problem(model, problem, max_new_tokens=14)
    page = tmp_path / "report.html"
    write_inspection(page, found, "a <i>model</i>")
    text = page.read_text()
    assert "<script>" not in text and "<img" not in text and "<i>model" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "Latent step 2" in text and "Alignment distance" in text and "Change between iterations" in text
    assert not re.search(r"""(src|href)=["']https?:""", text), "opens offline"


def test_inspect_from_the_command_line(saved, tmp_path):
    page = tmp_path / "report.html"
    printed = invoke(
        "inspect", saved, "--index", "1", "--page", page, "--curves", "chains", "--limit", "2", "--max-new-tokens", "40"
    )
    assert "token passes" in printed
    assert "Accuracy against K at test time" in page.read_text()
    assert "Accuracy against N at test time" in page.read_text()
    assert "reference: not given" in invoke("inspect", saved, "What is 2 + 3?", "--max-new-tokens", "40")
    own = ["--answer", "5", "--step", "2+3=5", "--max-new-tokens", "40"]
    assert "reference: 5" in invoke("inspect", saved, "What is 2 + 3?", *own)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "M", "--benchmark", "chains", "--iterations", "1,x"], "--iterations 1,x: expected whole numbers"),
        (["evaluate", "M", "--benchmark", "chains", "--latents", "0"], "--latents 0: expected numbers of at least 1"),
        (["evaluate", "M", "--benchmark", "chains", "--control", "off"], "--control off: expected none, shuffled or"),
        (["evaluate", "embedded", "--benchmark", "chains"], "not a SpiralThinker model"),
        (["inspect", "M", " "], "the question is empty"),
        (["inspect", "M", "--curves", "chains"], "--curves: they are drawn on the page"),
        (["inspect", "M", "--step", "one"], "--step and --answer belong to a question"),
        (["inspect", "M", "What?", "--answer", " "], "--answer must not be empty"),
        (["inspect", "embedded", "--index", "999999"], "problems, numbered from 0"),
    ],
)  # fmt: skip
def test_mistakes_end_with_a_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == [], "nothing half-written"


def test_another_k_than_trained_is_said(saved):
    with pytest.warns(UserWarning, match="trained with iterations = 2, used with 3"):
        SpiralThinkerModel.from_pretrained(saved, iterations=3)
