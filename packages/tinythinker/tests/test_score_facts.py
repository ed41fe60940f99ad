"""The script that says what of the chains on `facts` is right."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tinythinker.config import DataSettings
from tinythinker.question_sets import DOES_NOT_FIT, FITS, load_questions
from tinythinker.stages import Prompt, analyze_prompt, question_text, recall_prompt

SCRIPT = Path(__file__).parents[1] / "scripts/score_facts.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("score_facts", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(prompt: Prompt, text: str) -> str:
    return json.dumps({"prompt": prompt.text(), "text": f" {text}"})


def test_what_is_right_of_chains(script: ModuleType, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    questions = load_questions(DataSettings(benchmark="facts", split="test", limit=4)).questions
    recalls, analyses = ["{}"], ["{}"]
    for number, question in enumerate(questions):
        assert question.reference is not None
        known = "A plin is red." if number == 3 else question.reference.knowledge
        recalls.append(row(recall_prompt(question), known))
        for option, exact in enumerate(question.reference.reasons):
            text = exact
            if number == 0:  # the facts of another option, with a verdict that is right for this one
                other = question.reference.reasons[option - 1]
                verdict = FITS if exact.endswith(FITS) else DOES_NOT_FIT
                text = other.removesuffix(FITS).removesuffix(DOES_NOT_FIT) + verdict
            if number == 1:
                text = exact.removesuffix(FITS).removesuffix(DOES_NOT_FIT) + FITS
            if number == 2:
                text = exact.removesuffix(FITS).removesuffix(DOES_NOT_FIT).strip()  # no verdict
            analyses.append(row(analyze_prompt(question, option, known), text))
    folder = tmp_path / "run/acquisition/evaluation/facts-texts/greedy"
    folder.mkdir(parents=True)
    (folder / "recall.jsonl").write_text("\n".join(recalls))
    (folder / "analyze.jsonl").write_text("\n".join(analyses))
    (folder / "summarize.jsonl").write_text("{}")
    (tmp_path / "run/results.json").write_text(json.dumps({"phases": {"acquisition": {}}}))
    monkeypatch.setattr(sys, "argv", ["score_facts", str(tmp_path / "run")])
    script.main()
    # Verdicts: all four of questions 0 and 3, the right option of 1, none of 2. It fits: 1 of 0 and of 3, all of 1.
    assert capsys.readouterr().out.splitlines()[-1] == "| run | acquisition | 75.0 | 75.0 | 56.2 | 37.5 |"


def test_a_stage_that_a_student_does_not_have_has_no_figure(script: ModuleType, tmp_path: Path) -> None:
    [question] = load_questions(DataSettings(benchmark="facts", split="test", limit=1)).questions
    questions = {question_text(question): question}
    assert question.reference is not None
    assert script.score(tmp_path, questions) == [None] * 4, "one text in place of stages"
    (tmp_path / "summarize.jsonl").write_text("{}")
    exact = [
        row(analyze_prompt(question, option, None), reason) for option, reason in enumerate(question.reference.reasons)
    ]
    (tmp_path / "analyze.jsonl").write_text("\n".join(["{}", *exact]))
    assert script.score(tmp_path, questions) == [None, 100.0, 100.0, 25.0], "analyses without a recall before them"
    (tmp_path / "analyze.jsonl").unlink()
    (tmp_path / "recall.jsonl").write_text("\n".join(["{}", row(recall_prompt(question), "A plin is red.")]))
    assert script.score(tmp_path, questions) == [0.0, None, None, None]
