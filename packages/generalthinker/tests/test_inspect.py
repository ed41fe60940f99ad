"""`generalthinker inspect`: its numbers against the trainer's, its terminal and its pages, of a model and of a run."""

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from generalthinker.arguments import training_arguments
from generalthinker.cli import app
from generalthinker.config import MethodSettings, Settings
from generalthinker.data import graded_problems, training_rows
from generalthinker.inspect.group import GroupCredit, ResponseCredit, TokenCredit, credit_group
from generalthinker.inspect.page import render_group_page
from generalthinker.inspect.run import sparkline
from generalthinker.inspect.terminal import coloured, show_group
from generalthinker.inspect.tokens import token_texts
from generalthinker.inspect.words import sides
from generalthinker.report import CURVES, curve, evenly, sample_sections
from generalthinker.samples import read_rows, read_samples, write_samples
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common.benchmarks import chains
from thinker_common.benchmarks.problem import Problem
from thinker_common.errors import DataError, UserError
from thinker_common.evaluation.generate import Generation
from thinker_common.models.load import load_policy, load_tokenizer
from thinker_common.training.run_folder import RunFolder

PROBLEM = chains.generate("train", 1, seed=3)[0]
# Two good responses, two more with other answers, and one of each malformation.
RESPONSES = [
    "12+3=15. So \\boxed{15}<|end|>",
    "1+1=2. The answer is \\boxed{7}.<|end|>",
    "9-4=5. So \\boxed{5}<|end|>",
    f"(7+3)*2=20. 20/4=5. So \\boxed{{{PROBLEM.answer}}}.<|end|>",
    "It is<|end|>",  # no box
    "2+2=4. 4+4=8. So \\boxed{8",  # truncated
    "It must be \\boxed{}<|end|>",  # empty answer
    "\\boxed{3}<|end|>",  # empty reasoning
]
END = "<|end|>"


def disturbed(model: Any, seed: int) -> Any:
    """The same model with other weights, the same ones for a seed."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("embedded")


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    """(policy, reference)"""
    return load_policy("embedded").double(), disturbed(load_policy("embedded"), 1).double()


@pytest.fixture
def group_of(tokenizer: Any, models: tuple[Any, Any]) -> Callable[..., GroupCredit]:
    def make(texts: list[str] = RESPONSES, *, temperature: float = 1.0, **method: Any) -> GroupCredit:
        generations = [
            Generation(
                tuple(tokenizer(text.removesuffix(END), add_special_tokens=False)["input_ids"]), "", END not in text
            )
            for text in texts
        ]
        return credit_group(*models, tokenizer, PROBLEM, MethodSettings(**method), generations, temperature=temperature)

    return make


@pytest.mark.parametrize(
    ("method", "temperature"),
    [
        ({}, 1.0),
        ({"credit_strength": 0.5, "token_clip": 0.8, "credit_base": "current", "conditioning": "assistant"}, 0.7),
        ({"credit": "clipped", "malformed": "exclude", "closing": "token"}, 1.0),
        ({"credit": "additive", "malformed": "below_worst", "credit_control": "reverse"}, 1.0),
        ({"credit": "direction_preserving", "entropy_gate": 0.3}, 1.0),
        ({"credit": "projection", "reward": "mean_probability"}, 1.0),
        ({"credit": "rlsd", "reward": "probability"}, 1.0),
        ({"credit": "controlled", "reward": "binary"}, 1.0),
        ({"credit": "none", "min_group_std": 1e3}, 1.0),
    ],
    ids=lambda value: str(value.get("credit", "defaults") if isinstance(value, dict) else value),
)
def test_the_numbers_are_those_of_the_trainer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: Any,
    group_of: Callable[..., GroupCredit],
    method: dict[str, Any],
    temperature: float,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    settings = Settings(
        method=MethodSettings(**method),
        training={"num_generations": len(RESPONSES), "per_device_train_batch_size": len(RESPONSES), "beta": 0.1},
    )
    settings.generation.temperature = temperature
    rows = training_rows([PROBLEM], settings.method, seed=0)
    trainer = GeneralThinkerTrainer(
        model=load_policy("embedded").double(),
        args=training_arguments(settings, tmp_path),
        method=settings.method,
        train_dataset=rows,
        processing_class=tokenizer,
        problems=graded_problems([PROBLEM], rows),
    )
    disturbed(trainer.ref_model, 1).double()
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in RESPONSES]
    replayed = (
        [trainer._tokenize_prompts([rows[0]["prompt"]])[0][0]] * len(ids),
        ids,
        None,
        RESPONSES,
        None,
        {},
        None,
        None,
    )
    monkeypatch.setattr(trainer, "_generate", lambda prompts: replayed)
    batch = trainer._generate_and_score_completions([rows[0]] * len(ids))
    logged = {name: values[0] for name, values in trainer._metrics["train"].items()}

    group = group_of(temperature=temperature, **method)
    for row, response in enumerate(group.responses):
        size = len(response.tokens)
        assert size == len(ids[row]) - (END in RESPONSES[row])
        advantages = torch.tensor([token.advantage for token in response.tokens])
        torch.testing.assert_close(advantages, batch["advantages"][row, :size], rtol=1e-4, atol=1e-5, check_dtype=False)
        assert [token.covered for token in response.tokens] == batch["tool_mask"][row, :size].bool().tolist()
        if trainer.last_credit:
            weights = torch.tensor(trainer.last_credit[row][1][:size])
            ours = torch.tensor([token.weight for token in response.tokens])
            torch.testing.assert_close(ours.nan_to_num(0.0), weights, rtol=1e-3, atol=1e-5)
    [rewards] = trainer._logs["rewards"].values()
    ours = torch.tensor([nan if response.reward is None else response.reward for response in group.responses])
    torch.testing.assert_close(ours, torch.tensor(list(rewards)), rtol=1e-5, atol=1e-5, equal_nan=True)
    assert group.logged == pytest.approx({name: logged[name] for name in group.logged}, rel=1e-3, abs=1e-5, nan_ok=True)


def test_every_stage_of_the_credit(group_of: Callable[..., GroupCredit]) -> None:
    """d_t standardised, clipped, centred again, scaled: from s_t alone, in plain Python."""
    group = group_of(token_clip=0.8, credit_strength=0.5)
    response = group.responses[3]
    tokens = response.tokens[: response.reasoning_length]
    s = torch.tensor([token.log_ratio for token in tokens], dtype=torch.float64)
    d = (s - s.mean()) / (s.std(unbiased=False) + 1e-6)
    bounded = d.clamp(-0.8, 0.8)
    assert [token.clipped for token in tokens] == (d.abs() > 0.8).tolist()
    assert any(token.clipped for token in tokens)
    bounded = bounded - bounded.mean()
    weights = bounded / max(1.0, bounded.abs().max().item())
    for name, wanted in (
        ("evidence", d),
        ("bounded", bounded),
        ("weight", weights),
        ("advantage", response.advantage + 0.5 * abs(response.advantage) * weights),
    ):
        ours = torch.tensor([getattr(token, name) for token in tokens], dtype=torch.float64)
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4, msg=name)
    own_answer = response.tokens[response.reasoning_length]
    assert not own_answer.covered and not own_answer.credited and isnan(own_answer.log_ratio)
    assert [r.malformed for r in group.responses] == [
        None, None, None, None, "no_box", "truncated", "empty_answer", "empty_reasoning",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "method",
    [{}, {"credit": "additive"}, {"credit_control": "reverse"}, {"credit": "rlsd", "reward": "binary"}],
    ids=["controlled", "additive", "reverse", "rlsd"],
)
def test_the_colours_say_what_they_are_said_to(group_of: Callable[..., GroupCredit], method: dict[str, Any]) -> None:
    group = group_of(**method)
    seen = set()
    for response in group.responses:
        mean = sum(token.log_ratio for token in response.credited) / max(1, len(response.credited))
        for token in response.credited:
            if response.advantage == 0 or abs(token.weight) < 1e-3 or abs(token.evidence) < 0.5:
                continue  # the token clip moves the mean a little
            said = sides(MethodSettings(**method))[token.weight < 0]
            true = token.log_ratio > mean
            if method.get("credit") == "rlsd":
                true = abs(token.advantage) > abs(response.advantage)
            assert ("more" in said) == true, (token, said)
            seen.add(said)
    assert len(seen) == 2


def test_an_empty_response_and_a_single_one(group_of: Callable[..., GroupCredit]) -> None:
    group = group_of(["<|end|>", "It is \\boxed{3}<|end|>"])
    assert [bool(response.tokens) for response in group.responses] == [False, True]
    single = group_of(["It is \\boxed{3}<|end|>"])
    assert single.responses[0].advantage == 0
    assert any(token.weight for token in single.responses[0].credited)


def test_tokens_join_to_the_text_of_the_response(tokenizer: Any) -> None:
    text = "8 €, 12\N{MINUS SIGN}3\n\tso \N{SLIGHTLY SMILING FACE}."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids)
    assert "".join(part for part in texts if part != "\N{REPLACEMENT CHARACTER}") == text


def printed(group: GroupCredit, width: int, **options: Any) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    show_group(PROBLEM, MethodSettings(), group, console, **options)
    return console.export_text()


def test_the_terminal_stacks_in_80_columns_and_puts_side_by_side_in_wider_ones(
    group_of: Callable[..., GroupCredit],
) -> None:
    group = group_of()
    narrow, wide, one = printed(group, 80), printed(group, 160), printed(group, 80, only=3)
    assert max(map(len, narrow.splitlines())) <= 80
    assert sum("╭" in line for line in narrow.splitlines()) == 8
    assert sum("╭" in line for line in wide.splitlines()) == 4
    assert one.count("╭") == 1
    assert "no loss" in one
    for number in (f"{group.responses[0].reward:.3f}", f"{group.responses[0].advantage:+.3f}"):
        assert number in narrow and number in wide
    assert "empty reasoning" in narrow


def test_colours(group_of: Callable[..., GroupCredit]) -> None:
    response = group_of(token_clip=0.8).responses[3]
    text = coloured(response, 1.0)
    assert text.plain == "".join(token.text for token in response.tokens)
    assert len({span.style for span in text.spans if "rgb" in str(span.style)}) > 2
    assert any("underline" in str(span.style) for span in text.spans)


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b[2J\x07\N{RIGHT-TO-LEFT OVERRIDE}{{ 7*7 }}"


def hostile_group() -> GroupCredit:
    token = TokenCredit(HOSTILE.replace("\x1b", "?").replace("\x07", "?"), 0.1, 1.0, 0.9, 0.5, 0.2, True, True)
    response = ResponseCredit([token] * 3, HOSTILE, None, -1.0, -1.0, 0.2, 3)
    return GroupCredit(
        [response], {"reward": -1.0, "reward_std": nan, "groups_under_min_std": 0, "groups_without_signal": 0}
    )


def test_what_a_model_wrote_is_text_on_the_page_and_drives_no_terminal() -> None:
    problem = Problem(id="x", question=HOSTILE, answer=HOSTILE, kind="text")
    page = render_group_page(problem, MethodSettings(), hostile_group())
    assert "<script" not in page and "<img" not in page and "\x1b" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page, "shown as text"
    assert "{{ 7*7 }}" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?https?:""", page), "opens offline"
    console = Console(width=100, record=True, file=io.StringIO())
    show_group(problem, MethodSettings(), hostile_group(), console)
    text = console.export_text()
    assert "\x1b" not in text and "\x07" not in text
    assert "<script>alert(1)</script>" in text


def test_a_tooltip_has_every_number_of_a_token(group_of: Callable[..., GroupCredit]) -> None:
    group = group_of()
    page = render_group_page(PROBLEM, MethodSettings(), group)
    token = group.responses[0].tokens[0]
    read = f"s_t {token.log_ratio:+.3f}   d_t {token.evidence:+.3f}   d_t bounded {token.bounded:+.3f}"
    assert f"{read}   w_t {token.weight:+.3f}   A_t {token.advantage:+.3f}" in page
    assert page.count("<article>") == 8
    assert 'id="by-b"' not in render_group_page(PROBLEM, MethodSettings(credit="rlsd"), group)


# --- the command line ---------------------------------------------------------------------------------------------------


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_model_with_changed_settings(tmp_path: Path) -> None:
    page = tmp_path / "pages" / "credit.html"
    out = invoke(
        "inspect", "embedded", "method.credit=additive", "method.credit_strength=0.4", "--samples", "3",
        "--question", "Mia has 12 apples. She buys 9 more. How many apples does Mia have now? <script>", "--answer", "21",
        "--max-new-tokens", "48", "--page", str(page),
    )  # fmt: skip
    assert "additive, λ 0.4" in out
    assert out.count("╭") == 3
    assert r"\boxed{" in out
    assert page.read_text(encoding="utf-8").count("<article>") == 3
    assert "<script" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["training.beta=1"],
            "unknown setting 'training'; a setting is named SECTION.KEY, and the sections are method",
        ),
        (["method.answers=wrong"], "the control takes the answer of another problem"),
        (["--samples", "2", "--temperature", "0"], "greedy responses are all equal"),
        (["--samples", "2", "--response", "3"], "--response 3: there are 2 responses"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        CliRunner().invoke(app, ["inspect", "embedded", *arguments], catch_exceptions=False)


TINY = [
    "training.max_steps=4", "training.per_device_train_batch_size=4", "training.num_generations=4", "data.limit=12",
    "training.learning_rate=1e-3", "training.save_steps=2", "training.save_total_limit=null", "training.seed=4",
    "evaluation.at_start=false", "evaluation.at_end=false", "evaluation.every_steps=1", "evaluation.validation_limit=5",
    "generation.max_new_tokens=32", "evaluation.max_new_tokens=32", "evaluation.export=last",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect") / "run"
    invoke("train", "--output", str(folder), *TINY)
    return folder


def test_a_run_keeps_the_same_problems_through_training(run: Path) -> None:
    rows = read_samples(run / "samples.jsonl")
    assert [row["step"] for row in rows] == [step for step in range(5) for _ in range(4)]
    problems = [row["id"] for row in rows[:4]]
    assert len(set(problems)) == 4
    assert all([row["id"] for row in rows[4 * step : 4 * step + 4]] == problems for step in range(5))
    assert all(row["text"] and row["question"] and row["answer"] for row in rows)
    assert all((row["answer_loglik"] is not None) == row["boxed"] for row in rows)
    assert "Through training: " in (run / "report.html").read_text(encoding="utf-8")


def test_a_resumed_run_writes_no_sample_twice(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    (again / "results.json").unlink()
    shutil.rmtree(again / "model")
    shutil.rmtree(again / "checkpoints" / "checkpoint-4")
    invoke("train", "--output", str(again), *TINY)
    assert json.loads((again / "results.json").read_text())["resumed_at"] == 2
    assert read_samples(again / "samples.jsonl") == read_samples(run / "samples.jsonl")


def test_a_run_on_the_terminal_and_as_a_page(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    out = invoke("inspect", str(run), "--page", str(page))
    assert "4 steps, finished" in out
    for name in (
        "reward", "kl", "entropy", "credit/sign_flip_ratio", "boxed_rate", "truncation_rate", "groups_under_min_std",
        "credit/clip_ratio", "credit/weight_abs_p90", "validation/accuracy",
    ):  # fmt: skip
        assert re.search(rf"^{name} .*[▁▂▃▄▅▆▇█]", out, flags=re.MULTILINE), name
    assert max(len(line) for line in out.splitlines() if "▁" in line) <= 80
    assert all(f"step {step}: " in out for step in (0, 1, 4))
    text = page.read_text(encoding="utf-8")
    for title in ("KL to the reference policy", "Credit control", "Groups without a signal", "Through training: "):
        assert title in text
    with pytest.raises(UserError, match=r"--samples is for a model, and .*run is a run: its model is"):
        CliRunner().invoke(app, ["inspect", str(run), "--samples", "3"], catch_exceptions=False)
    with pytest.raises(UserError, match=r"method.KEY=VALUE is for a model"):
        CliRunner().invoke(app, ["inspect", str(run), "method.credit=none"], catch_exceptions=False)


def test_a_run_of_others(tmp_path: Path) -> None:
    """A run that has just begun, damaged files, and hostile text in its samples."""
    folder = RunFolder.create(tmp_path / "run")
    folder.write_config("model: {name_or_path: embedded}\n")
    with pytest.raises(UserError, match="has logged nothing yet"):
        CliRunner().invoke(app, ["inspect", str(folder.path)], catch_exceptions=False)
    folder.append_metrics({"step": 1, "reward": -2.0, "kl": nan})
    with open(folder.metrics, "a") as file:
        file.write('{"step": 2, "rew')  # being written
    assert read_rows(folder.metrics) == [{"step": 1, "reward": -2.0, "kl": None}]
    assert "no samples" in invoke("inspect", str(folder.path))
    sample = {
        "step": 1, "id": HOSTILE, "question": HOSTILE, "answer": HOSTILE, "text": HOSTILE, "tokens": 3,
        "extracted": HOSTILE, "correct": False, "boxed": True, "truncated": False, "answer_loglik": -1.0,
    }  # fmt: skip
    write_samples(folder.file("samples.jsonl"), [sample])
    out = invoke("inspect", str(folder.path), "--page", str(tmp_path / "run.html"))
    assert "\x1b" not in out and "<script>" in out
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<img" not in page and "\x1b" not in page and "&lt;script&gt;" in page
    write_samples(folder.file("samples.jsonl"), [{"step": 1, "id": "x"}])
    with pytest.raises(DataError, match=r"samples.jsonl, line 1: not a sample \(it has no question\)"):
        invoke("inspect", str(folder.path))
    folder.metrics.write_text("[1]\n")
    with pytest.raises(DataError, match=r"metrics.jsonl, line 1: not a row of a run"):
        invoke("inspect", str(folder.path))


# --- the pages ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """A page's tags, checked for being closed in their order, and its texts by the tags that they stand in."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attributes)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, text: str) -> None:
        self.texts.append((tuple(self.open), text))

    def of(self, *tags: str) -> list[str]:
        """The texts inside of these tags."""
        return [text for inside, text in self.texts if inside[-len(tags) :] == tags]

    def values(self, name: str) -> list[str]:
        """The values of one attribute."""
        return [value for _, attributes in self.attributes if (value := attributes.get(name)) is not None]


@pytest.fixture(scope="module")
def run_page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("pages") / "run.html"
    invoke("inspect", str(run), "--page", str(page))
    return page


def test_the_page_of_a_run_draws_every_curve_to_its_last_value(run: Path, run_page: Path) -> None:
    page = Page(run_page.read_text(encoding="utf-8"))
    rows = read_rows(run / "metrics.jsonl")
    drawn = {name: points for names, _ in CURVES.values() for name in names if (points := curve(rows, name))}
    assert {"reward", "validation/accuracy", "validation/answer_loglik", "credit/log_ratio_std"} <= set(drawn)
    legend = [text.removesuffix(", last ") for text in page.of("ul", "li")]
    lasts = page.of("ul", "li", "b")
    shown = dict(zip(legend, lasts, strict=True))
    assert {name: shown[name] for name in drawn} == {name: f"{points[-1][1]:.3g}" for name, points in drawn.items()}
    titles = [title for title, (names, _) in CURVES.items() if set(names) & set(drawn)]
    assert [title for title in page.of("h2") if title in CURVES] == titles
    problems = {row["id"] for row in read_samples(run / "samples.jsonl")}
    assert {title for title in page.of("h2") if title.startswith("Through training: ")} == {
        f"Through training: {problem}" for problem in problems
    }
    assert sum(tag == "svg" for tag, _ in page.attributes) == len(titles) + 1, "and the answers of these problems"
    paths = page.values("d")
    assert paths and not any("nan" in path or "inf" in path for path in paths)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in page.values("xlink:href")} <= set(ids)


def test_the_page_of_a_model_colours_what_its_buttons_say(group_of: Callable[..., GroupCredit]) -> None:
    group = group_of(token_clip=0.8)
    page = Page(render_group_page(PROBLEM, MethodSettings(token_clip=0.8), group))
    assert page.of("div", "label") == ["w_t", "d_t bounded", "d_t", "s_t", "A_t"]
    ids = page.values("id")
    assert page.values("for") == ids and len(set(ids)) == 5
    tokens = [attributes for tag, attributes in page.attributes if tag == "span" and "data-read" in attributes]
    shares = [dict(re.findall(r"--(\w): (-?[\d.]+)", attributes.get("style") or "")) for attributes in tokens]
    ours = [token for response in group.responses for token in response.tokens]
    assert len(tokens) == len(ours)
    assert [attributes["class"] for attributes in tokens] == [
        "t" + " c" * token.clipped + " o" * (not token.credited) for token in ours
    ]
    for key, name in {"w": "weight", "b": "bounded", "d": "evidence", "s": "log_ratio", "a": "advantage"}.items():
        values = torch.tensor([getattr(token, name) for token in ours]).nan_to_num()
        drawn = torch.tensor([float(share.get(key, 0)) for share in shares])
        torch.testing.assert_close(drawn, values / values.abs().max(), rtol=0, atol=1e-3, msg=name)


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on PATH")

    def load(source: str, probe: str, *, dark: bool) -> dict[str, Any]:
        """What a script finds in a page that is drawn; only for it the page's policy is taken out."""
        source = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", source)
        script = f"<script>window.onload = () => {{ document.title = JSON.stringify(({probe})()); }}</script>"
        path = tmp_path / "probed.html"
        path.write_text(source.replace("</main>", f"</main>{script}"), encoding="utf-8")
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom",
            "--window-size=1200,900", f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        ]  # fmt: skip
        done = subprocess.run([chromium, *flags, path.as_uri()], capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        found = re.search(r"<title>(.*?)</title>", done.stdout.decode())
        assert found is not None
        return json.loads(unescape(found[1]))

    return load


LOOKS = """
  const page = getComputedStyle(document.body).backgroundColor;
  const fits = document.documentElement.scrollWidth <= innerWidth;
  const inside = (part, whole) => part.left >= whole.left - 1 && part.right <= whole.right + 1
    && part.top >= whole.top - 1 && part.bottom <= whole.bottom + 1;
"""
PAGE_COLOURS = {False: "rgb(251, 250, 248)", True: "rgb(21, 23, 26)"}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_of_a_model_in_a_browser(
    group_of: Callable[..., GroupCredit], browse: Callable[..., dict[str, Any]], dark: bool
) -> None:
    """Each button shows its scale and no other, and colours the tokens by its quantity."""
    group = group_of(token_clip=1.5)
    probe = f"""() => {{{LOOKS}
      const buttons = [...document.querySelectorAll('.by > label')].map(label => {{
        label.click();
        const scales = [...document.querySelectorAll('.scale')].filter(scale => scale.getClientRects().length);
        const tokens = [...document.querySelectorAll('.t')].map(token => getComputedStyle(token).backgroundImage);
        return {{name: label.textContent, scales: scales.map(scale => scale.className), tokens}};
      }});
      const cards = [...document.querySelectorAll('article')].map(card => card.getBoundingClientRect());
      const apart = cards.every((one, i) => cards.every((other, j) => i == j || one.right <= other.left
        || other.right <= one.left || one.bottom <= other.top || other.bottom <= one.top));
      const held = [...document.querySelectorAll('article')].every(card => [...card.querySelectorAll('.t')].every(
        token => inside(token.getBoundingClientRect(), card.getBoundingClientRect())));
      return {{page, fits, buttons, cards: cards.length, apart, held}};
    }}"""
    found = browse(render_group_page(PROBLEM, MethodSettings(token_clip=1.5), group), probe, dark=dark)
    assert found["page"] == PAGE_COLOURS[dark]
    assert found["fits"] and found["apart"] and found["held"]
    assert found["cards"] == len(group.responses)
    assert [button["scales"] for button in found["buttons"]] == [[f"scale scale-{key}"] for key in "wbdsa"]
    colourings = [tuple(button["tokens"]) for button in found["buttons"]]
    assert len(set(colourings)) == 5, "no two buttons show the same"
    tokens = [token for response in group.responses for token in response.tokens]
    uncoloured = colourings[0][next(place for place, token in enumerate(tokens) if not token.credited)]
    for place, token in enumerate(tokens):
        if token.credited and abs(token.weight) > 0.05:
            assert colourings[0][place] != uncoloured, token


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_of_a_run_in_a_browser(run_page: Path, browse: Callable[..., dict[str, Any]], dark: bool) -> None:
    """Every curve is drawn inside of its picture, in a colour that the background is not."""
    probe = f"""() => {{{LOOKS}
      const pictures = [...document.querySelectorAll('svg')].map(svg => {{
        const whole = svg.getBoundingClientRect();
        const lines = [...svg.querySelectorAll('path[style*="stroke: var(--s"]')].filter(line => !line.closest('defs'));
        return {{
          size: [whole.width, whole.height],
          lines: lines.length,
          inside: lines.every(line => inside(line.getBoundingClientRect(), whole)),
          colours: [...new Set(lines.map(line => getComputedStyle(line).stroke))],
        }};
      }});
      const card = getComputedStyle(document.querySelector('section')).backgroundColor;
      return {{page, card, fits, pictures}};
    }}"""
    source = run_page.read_text(encoding="utf-8")
    found = browse(source, probe, dark=dark)
    assert found["page"] == PAGE_COLOURS[dark]
    assert found["fits"]
    assert len(found["pictures"]) == source.count("<svg") > 10
    for picture in found["pictures"]:
        assert min(picture["size"]) > 100 and picture["lines"] and picture["inside"], picture
        assert found["card"] not in picture["colours"]
    first = found["pictures"][0]["colours"][0]
    assert first == ("rgb(110, 168, 242)" if dark else "rgb(37, 99, 186)")


def test_sparklines_and_thinning() -> None:
    assert sparkline([0.0, 1.0, 2.0, 7.0]) == "▁▂▃█"
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([float(value) for value in range(80)], width=8) == "▁▂▃▄▅▆▇█"
    rows = [{"step": step} for step in range(100)]
    assert [row["step"] for row in evenly(rows, 4)] == [0, 33, 66, 99]
    assert evenly(rows[:3], 4) == rows[:3]
    assert sample_sections([]) == []
