r"""Grading: the traps of the benchmark notes, the worker process, and the two graders side by side."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from thinker_common.benchmarks.boxed import last_boxed
from thinker_common.benchmarks.problem import Problem
from thinker_common.errors import SettingsError, UserError
from thinker_common.evaluation import grading, math_equality
from thinker_common.evaluation.grading import Grade, grade
from thinker_common.evaluation.math_equality import MathVerifier


def math(gold: str, **fields) -> Problem:
    return Problem(id="m/1", question="Q?", answer=gold, kind="math", **fields)


def right(gold: str, answer: str, grader: str = "default") -> bool:
    return grade(math(gold), f"Thus \\boxed{{{answer}}}.", grader=grader).correct


# --- the box ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{3} no wait \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"$\boxed{ -5 }$ dollars", "-5"),
        (r"\boxed{}", ""),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{5", None),
        (r"\boxed{3} and then \boxed{5", None),
        ("the answer is 5", None),
        ("", None),
    ],
)
def test_the_last_box_with_matching_braces(text, content):
    assert last_boxed(text) == content


def test_several_boxes_are_a_change_of_mind_not_a_set():
    assert grade(math("5"), r"\boxed{3} no wait \boxed{5}").correct
    assert not grade(math("3"), r"\boxed{3} no wait \boxed{5}").correct


def test_without_a_box_mathematics_is_wrong_and_counted_as_unboxed():
    assert grade(math("5"), "The answer is 5.") == Grade(correct=False, boxed=False, extracted=None)
    assert grade(math("5"), r"\boxed{}") == Grade(correct=False, boxed=True, extracted=None)


@pytest.mark.parametrize(
    ("gold", "said", "correct", "extracted"),
    [
        ("72", "48/2=24 clips, so 72.", True, "72"),
        ("72", "72 clips, of which 24 in May", False, "24"),
        ("-5", "It is -5", True, "-5"),
        ("3", "8-3", True, "3"),
        ("1200", "She has $1,200.00 now", True, "1200.00"),
        ("72", r"72, or \boxed{71}", False, "71"),
        ("72", r"72, or \boxed{", False, None),
        ("72", "many", False, None),
        (r"\frac{1}{2}", "1 / 2", False, None),
    ],
)
def test_the_last_number_without_a_box_on_request(gold, said, correct, extracted):
    """Not by default: figures of other methods stay what they are."""
    found = grade(math(gold), said, grader="unboxed")
    assert (found.correct, found.extracted) == (correct, extracted)
    if r"\boxed" not in said:
        assert not found.boxed
        assert grade(math(gold), said) == Grade(correct=False, boxed=False, extracted=None)


def test_the_end_of_a_response_without_a_box_on_request():
    options = {"options": ("Tom is a lempus.", "Tom is a grimpus.")}
    tom = Problem(id="t", question="Q?", answer="Tom is a lempus.", kind="text", metadata=options)
    for said, correct in (
        ("Every a is a b.<eot>Tom is a lempus.", True),
        ("tom is a  lempus", True),
        ("lempus", False),
        ("Tom is a grimpus.", False),
        ("Tom is a lempus. Tom is a grimpus.", False),
        (r"\boxed{lempus}", True),
    ):
        assert grade(tom, said, grader="unboxed").correct is correct, said
    assert not grade(tom, "Tom is a lempus.").correct
    sure = Problem(id="b", question="Q?", answer="no", kind="bool")
    for said, correct in (("Fish swim.<eot>No.", True), ("no, yes", False), ("No idea", False)):
        assert grade(sure, said, grader="unboxed").correct is correct, said


# --- mathematics -----------------------------------------------------------------------------------------------------

EQUAL = [
    ("1000", "1,000"),
    ("1000", r"1\,000"),
    ("1000", "1{,}000"),
    ("1000", r"1,\!000"),
    ("1234567", "1 234 567"),
    ("58,500", "58500"),
    (r"\$32,\!348", "32348"),
    ("27", "27.0"),
    ("27.0", "27"),
    ("25", "025"),
    ("-5", "-5."),
    ("-5", "−5"),
    ("18", r"\$18"),
    ("18", "$18$"),
    ("5", "x=5"),
    (r"10\%", "10%"),
    (r"10\%", "0.1"),
    ("6.02e23", r"6.02 \times 10^{23}"),
    (r"6.5 \times 10^{3}", "6.5e3"),
    ("7e37", "7.0e37"),
    (r"-\frac{1}{3}", "-1./3"),
    (r"\frac{1}{2}", r"\dfrac{1}{2}"),
    (r"\frac{1}{3}", "0.333333"),
    (r"\frac{1}{6}", r"0.1\overline{6}"),
    (r"1.\overline{3}", "4/3"),
    ("1,-2", "-2, 1"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
    (r"12 \text{ km}", "12"),
    (r"90^\circ", "90"),
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{east}", r"\textbf{East}"),
    (r"\text{(C)}", "C"),
    (r"\text{(C)}", r"\text{(C)}"),
    ("x^2+1", "1+x^2"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"1 \pm \sqrt{5}", r"1\pm\sqrt{5}"),
    (r"\frac{1}{2}", r"\frac12"),
    (r"6\sqrt{2}", r"6\sqrt2"),
    ("np.sqrt(2)", r"\sqrt{2}"),
    ("3*np.sqrt(2)/(1+np.exp(1))", r"\frac{3\sqrt{2}}{1+e}"),
    ("2*np.log(3)", r"2\ln 3"),
    ("1/np.pi", r"\frac{1}{\pi}"),
    ("x**2", "x^2"),
    ("x**(1/2)", r"\sqrt{x}"),
    ("2**-3", "0.125"),
    ("2.5e-3", "0.0025"),
    ("1e5", "100,000"),
    ("073", "73"),
]

DIFFERENT = [
    ("5", "-5"),
    ("6.5e3", "6.5"),
    ("7e37", "7.0e12"),
    ("1000", "1"),
    ("1000", "1,00"),
    (r"\frac{1}{3}", "0.3333"),
    (r"1.\overline{3}", "1"),
    ("(1,2)", "(2,1)"),
    ("x+1", "y+1"),
    (r"\text{(C)}", "B"),
    (r"\text{even}", "neve"),
    (r"\text{even}", "odd"),
    ("3", "np.sqrt(8)"),
    ("3", "os.getpid()"),
    ("3", "__import__('os').getpid()"),
    ("3", r"\frac{3}"),
    ("3", "}{"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_answers(gold, answer):
    assert right(gold, answer)
    assert right(gold, gold)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_answers(gold, answer):
    assert not right(gold, answer)


def test_a_comma_is_a_thousands_mark_only_where_the_gold_is_one_number():
    assert right("2125", "2,125")
    assert right("1,3", "3,1")
    assert not right("1,3", "13")


# --- what the row says of its answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "unit", "answer", "correct"),
    [
        ("45", "minute", "45", True),
        ("45", "minute", "45 minutes", True),
        ("45", "minute", r"45\text{ min.}", True),
        ("8", "min", r"8\,\mathrm{min}", True),
        ("8", "min", "9 minutes", False),
        (r"\frac{41}{12}", "km", r"\frac{41}{12} \mathrm{~km}", True),
        (r"\frac{600}{7}", "km/h", r"\frac{600}{7} \text{ km / h}", True),
        ("166", "$cm^2$", r"166 \text{ cm}^{2}", True),
        ("166", "$cm^2$", "166 cm^2", True),
        ("4.2", "%", r"4.2\%", True),
        ("4.2", "%", "4.2 percent", True),
        (r"\frac{1}{2}", "%", r"\frac{1}{2}\%", True),
        ("90", r"^{\circ}", r"90^\circ", True),
        ("90", r"^{\circ}", "90°", True),
        ("x+m", "m", "x+m", True),
        ("x+m", "m", "x", False),
    ],
)
def test_the_rows_own_unit_may_be_there_or_not(gold, unit, answer, correct):
    assert grade(math(gold, metadata={"unit": unit}), f"\\boxed{{{answer}}}").correct is correct


@pytest.mark.parametrize(
    ("gold", "metadata", "answer", "correct"),
    [
        ("4.2", {"tolerance": 0.1}, "4.25", True),
        ("4.2", {"tolerance": 0.1}, "4.3", True),  # the bound itself, which binary fractions miss
        ("4.2", {"tolerance": 0.1}, "4.31", False),
        ("4.2", {"tolerance": 0.1}, r"\frac{17}{4}", True),
        ("4.2", {"tolerance": 0.1}, r"x = 4.25", True),
        ("4.2", {"tolerance": 0.1, "unit": "%"}, r"4.25\%", True),
        ("4.2", {"tolerance": 0.1}, "x+4.2", False),
        ("(4.2, 1)", {"tolerance": 0.1}, "(4.25, 1)", False),  # of numbers alone
        ("4.2", {}, "4.25", False),
        ("6.02e23", {"relative_tolerance": 0.01}, r"6.022 \times 10^{23}", True),
        ("6.02e23", {"relative_tolerance": 0.01}, r"6.2 \times 10^{23}", False),
        ("6.02e23", {}, r"6.022 \times 10^{23}", False),
        ("1,4.2", {"tolerance": 0.1, "multiple_answers": True}, "4.15, 1.05", True),
    ],
)
def test_a_tolerance_is_of_numbers_and_only_where_the_row_has_one(gold, metadata, answer, correct):
    assert grade(math(gold, metadata=metadata), f"\\boxed{{{answer}}}").correct is correct


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        ("1,3,5", "5, 1, 3", True),
        ("1,3,5", "1,3,3,5", True),
        ("1,3,5", "1,3", False),
        ("1,3", "1,3,5", False),
        ("-2,-2", "-2", True),
        ("$69$,$84$", r"\{84, 69\}", True),
        ("$69$,$84$", r"69 \text{ and } 84", True),
        ("69,84", "(69, 84)", True),  # no tuples among the golds
        ("2500,7500", "7,500, 2,500", True),
        ("2500,7500", "2,500,7,501", False),
        ("1,300", "1, 300", True),
        ("$a=2$, $a=-6-4 \\sqrt{2}$", r"2, -6-4\sqrt2", True),
        ("$f(x)=-1$,$f(x)=x+1$", "f(x)=x+1, f(x)=-1", True),
        ("$f(x)=-1$,$f(x)=x+1$", "x+1, -1", True),
        ("$f(x)=-1$,$f(x)=x+1$", "x+1, 1", False),
        (r"$1$,$\frac{3 + \sqrt{21}}{2}$,$\frac{3 - \sqrt{21}}{2}$", r"1, \frac{3\pm\sqrt{21}}{2}", True),
        ("$10^{100}$,$10^{1 / 100}$", r"10^{1/100},10^{100}", True),
        ("(1,8,19), (2,7,13), (4,5,7)", "(4,5,7),(1,8,19),(2,7,13)", True),
        ("(1,8,19), (2,7,13)", "(8,1,19),(2,7,13)", False),
        ("(1,2)", "(2,1)", False),
        (r"$(45^{\circ}, 60^{\circ}),(135^{\circ}, 60^{\circ})$", r"(135^\circ,60^\circ),(45^\circ,60^\circ)", True),
    ],
)
def test_several_values_are_a_set_and_tuples_keep_their_order(gold, answer, correct):
    problem = math(gold, metadata={"multiple_answers": True})
    assert grade(problem, f"\\boxed{{{answer}}}").correct is correct
    assert grade(problem, f"\\boxed{{{gold}}}").correct


def test_very_many_values_are_refused_uncompared(monkeypatch):
    monkeypatch.setattr(math_equality, "compare", refuse)
    problem = math("x,y", metadata={"multiple_answers": True})
    assert not grade(problem, f"\\boxed{{{','.join(str(i) for i in range(100))}}}").correct


@pytest.mark.parametrize(
    ("kind", "first", "second", "same"),
    [
        ("math", "1/2", "0.5", True),
        ("math", "1/2", "0.25", False),
        ("math", "1,2", "2,1", True),
        ("text", "Quarter to four.", "quarter to  four", True),
        ("text", "3:45", "quarter to four", False),  # both right, but only the gold's aliases say so
        ("bool", "yes", "no", False),
        ("bool", "yes", "yes", True),
    ],
)
def test_answers_are_compared_with_each_other_without_the_gold(kind, first, second, same):
    gold, aliases = ("yes", ()) if kind == "bool" else ("3:45", ("quarter to four",) if kind == "text" else ())
    problem = Problem(id="s/1", question="Q?", answer=gold, kind=kind, aliases=aliases)
    assert grading.same_answer(problem, first, second) is same


def test_an_alias_counts_as_the_gold():
    assert grade(math("15", aliases=("quarter",)), r"\boxed{quarter}").correct


@pytest.mark.parametrize(
    ("gold", "answer", "published", "mended"),
    [
        ("5", "5", True, True),
        ("5", "-5", False, False),
        ("1000", "1,000", True, True),
        (r"\frac{1}{2}", "0.5", True, True),
        ("6.02e23", r"6.02 \times 10^{23}", False, True),
        ("1000", r"1\,000", False, True),
        (r"-\frac{1}{3}", "-1./3", False, True),
    ],
)
def test_where_the_two_graders_differ_on_mathematics(gold, answer, published, mended):
    assert right(gold, answer, "generalthinker") is published
    assert right(gold, answer, "default") is mended


def test_an_unknown_grader_names_those_there_are():
    with pytest.raises(SettingsError, match="grader = 'strict': must be one of default, generalthinker"):
        grade(math("5"), "x", grader="strict")


# --- the worker process ----------------------------------------------------------------------------------------------


def refuse(gold, prediction, *tolerance):
    raise AssertionError(f"{gold!r} and {prediction!r} went to the worker")


@pytest.mark.parametrize(
    ("gold", "answer"), [("72", "72"), ("72", "71"), ("1000", "1,000"), (r"\frac{1}{2}", r"\dfrac12")]
)
def test_integers_and_equal_strings_need_no_worker(monkeypatch, gold, answer):
    monkeypatch.setattr(math_equality, "compare", refuse)
    answer = answer.replace("dfrac12", "dfrac{1}{2}")
    assert right(gold, answer) == (answer != "71")
    if gold.isdigit() and answer.isdigit():
        assert right(gold, answer, "generalthinker") == (answer != "71")


def test_an_absurdly_long_prediction_is_refused_unparsed(monkeypatch):
    monkeypatch.setattr(math_equality, "compare", refuse)
    for grader in grading.GRADERS:
        for prediction in ("1+" * 5_000 + "1", "1" * 5_000, r"0.\overline{" + "1" * 5_000 + "}"):
            assert not right("3", prediction, grader)


@pytest.fixture
def impatient():
    verifier = MathVerifier(time_limit=1.0)
    yield verifier
    verifier.close()


def test_a_comparison_that_runs_away_is_stopped_and_the_next_one_works(impatient):
    assert impatient.compare("1/2", "0.5") == "equal"
    first_worker = impatient._worker.pid
    start = time.monotonic()
    assert impatient.compare("3", "9^{9^{9^{9}}}") == "timed_out"
    assert time.monotonic() - start < 5
    assert impatient.compare("1/2", "0.5") == "equal"
    assert impatient._worker.pid != first_worker
    with pytest.raises(ProcessLookupError):
        os.kill(first_worker, 0)


def test_a_worker_that_was_killed_is_replaced(impatient):
    assert impatient.compare("1/2", "0.25") == "different"
    impatient._worker.kill()
    impatient._worker.wait()
    assert impatient.compare("1/2", "0.5") == "equal"


def test_a_worker_that_dies_before_it_is_asked_is_replaced_once(impatient, monkeypatch):
    def kill():
        impatient._worker.kill()
        impatient._worker.wait()
        monkeypatch.setattr(impatient._worker, "poll", lambda: None)  # it was still alive when it was looked at

    assert impatient.compare("1/2", "0.25") == "different"
    kill()
    assert impatient.compare("1/2", "0.5") == "equal"
    kill()
    start = impatient._start
    monkeypatch.setattr(impatient, "_start", lambda: (start(), kill()))
    with pytest.raises(BrokenPipeError):
        impatient.compare("1/2", "0.25")


def test_a_time_out_is_counted_apart_from_a_wrong_answer(monkeypatch, impatient):
    monkeypatch.setattr(math_equality, "compare", impatient.compare)
    assert grade(math("3"), r"\boxed{9^{9^{9^{9}}}}") == Grade(False, True, "9^{9^{9^{9}}}", timed_out=True)
    assert grade(math("3"), r"\boxed{4}") == Grade(False, True, "4", timed_out=False)


def test_a_pair_is_compared_once(monkeypatch):
    asked = []

    class Counting:
        def compare(self, gold, prediction, absolute, relative):
            asked.append((gold, prediction))
            return "different"

    monkeypatch.setattr(math_equality, "_verifier_of", lambda process_id: Counting())
    math_equality.compare.cache_clear()
    try:
        for _ in range(3):
            assert math_equality.compare("x", "y") == "different"
    finally:
        math_equality.compare.cache_clear()
    assert asked == [("x", "y")]


def test_grading_works_outside_the_main_thread():
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(right("x^2-1", "(x-1)(x+1)")))
    thread.start()
    thread.join()
    assert verdicts == [True]


def test_a_broken_math_verify_is_an_error_that_says_what_to_do(tmp_path, monkeypatch, impatient):
    (tmp_path / "math_verify.py").write_text("raise ImportError('Unsupported ANTLR version 4.7')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"Unsupported ANTLR version 4\.7.*pip install 'math-verify\[antlr4_13_2\]'"):
        impatient.compare("1/2", "0.5")


def test_a_math_verify_that_calls_one_and_one_different_fails_its_self_test(tmp_path, monkeypatch, impatient):
    (tmp_path / "math_verify.py").write_text(
        "class LatexExtractionConfig:\n    def __init__(self, **_): pass\n"
        "ExprExtractionConfig = LatexExtractionConfig\n"
        "parse = lambda *_, **__: [1]\nverify = lambda *_, **__: False\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="1 = 1 is not seen as equal"):
        impatient.compare("1/2", "0.5")


def test_the_worker_imports_no_torch():
    code = (
        "import sys, thinker_common.evaluation.math_worker as w; w.Comparer();"
        "import thinker_common.evaluation.grading, thinker_common.benchmarks;"
        "print(sorted(m for m in sys.modules if m in ('torch', 'transformers', 'datasets')))"
    )
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (found.stdout.strip(), found.returncode) == ("[]", 0), found.stderr


def test_the_worker_answers_line_by_line():
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    rest = {"absolute": 0.0, "relative": 0.0, "seconds": 20}
    requests = [{"gold": g, "prediction": p, **rest} for g, p in (("1/2", "0.5"), ("1/2", "\udc80"), ("1", "2"))]
    done = subprocess.run(
        [sys.executable, "-m", "thinker_common.evaluation.math_worker"],
        input="".join(json.dumps(request) + "\n" for request in requests),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [reply.get("equal") for reply in replies] == [None, True, False, False]


# --- multiple choice -------------------------------------------------------------------------------------------------

CHOICE = Problem(
    id="c/1",
    question="Where is money kept?",
    answer="C",
    kind="mcq",
    options=("a river", "rain", "bank", "vitamin C", "stone"),
)


@pytest.mark.parametrize(
    ("box", "letter"),
    [
        ("C", "C"),
        ("c", "C"),
        ("(C)", "C"),
        ("C.", "C"),
        (r"\text{C}", "C"),
        (r"\textbf{(C)}", "C"),
        ("**C**", "C"),
        ("C. bank", "C"),
        ("C.bank", "C"),
        ("C) bank", "C"),
        ("C: bank", "C"),
        ("C - bank", "C"),
        ("(C) bank", "C"),
        ("bank", "C"),
        (r"\text{Bank}.", "C"),
        ("The answer is C", "C"),
        ("Option (C)", "C"),
        ("D. vitamin C", "D"),
        ("vitamin C", "D"),
        ("B", "B"),
        ("J", None),
        ("A and C", None),
        ("C. or B.", None),
        ("A, C", None),
        ("C-bank", None),
        ("banks", None),
        ("", None),
        ("42", None),
    ],
)
def test_letters_by_the_default_grader(box, letter):
    got = grade(CHOICE, f"I think \\boxed{{{box}}}")
    assert got == Grade(correct=letter == "C", boxed=True, extracted=letter)


def test_a_text_that_two_options_share_names_neither():
    twins = Problem(id="c/2", question="Q?", answer="A", kind="mcq", options=("gold", "Gold", "lead"))
    assert not grade(twins, r"\boxed{gold}").correct
    assert grade(twins, r"\boxed{A. gold}").correct


@pytest.mark.parametrize(
    "box", ["A", "A. P(A, B | C) * P(C)", "P(A, B | C) * P(C)", "**A**", "**A. P(A, B | C) * P(C)**"]
)
def test_an_asterisk_may_be_part_of_an_option(box):
    options = ("P(A, B | C) * P(C)", "P(A | C) * P(B)", "P(C)", "none")
    problem = Problem(id="c/4", question="Q?", answer="A", kind="mcq", options=options)
    assert grade(problem, f"\\boxed{{{box}}}").extracted == "A"


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("The answer is C.", True),
        ("Answer: (C) bank", True),
        ("The answer is B. No: the answer is **C**", True),
        ("The answer is B.", False),
        ("Perhaps C.", False),
    ],
)
def test_without_a_box_only_the_default_grader_reads_a_stated_answer(text, correct):
    got = grade(CHOICE, text)
    assert (got.correct, got.boxed) == (correct, False)
    assert not grade(CHOICE, text, grader="generalthinker").correct


@pytest.mark.parametrize(
    ("box", "correct"),
    [
        ("C", True),
        ("(c)", True),
        ("C. bank", True),
        ("the answer is C", True),
        ("J", False),
        ("bank", False),  # the label pattern eats the b
        ("obank", False),
        (r"\text{C}", False),  # no letter is found inside \text
        ("C: anything", True),
    ],
)
def test_multiple_choice_by_the_published_rules_with_their_weak_spots(box, correct):
    assert grade(CHOICE, f"\\boxed{{{box}}}", grader="generalthinker").correct is correct


def test_published_rules_accept_the_text_of_the_gold_option():
    problem = Problem(id="c/3", question="Q?", answer="B", kind="mcq", options=("a river", "the rain", "x"))
    assert grade(problem, r"\boxed{\text{The rain}.}", grader="generalthinker").correct
    assert not grade(problem, r"\boxed{x}", grader="generalthinker").correct


# --- yes/no and free text --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "extracted"),
    [
        (r"\boxed{yes}", "yes"),
        (r"\boxed{\text{Yes}}", "yes"),
        (r"\boxed{True.}", "yes"),
        (r"\boxed{No, because}", "no"),
        (r"\boxed{false}", "no"),
        ("So the answer is yes.", "yes"),
        (r"\boxed{maybe}", None),
        (r"\boxed{none}", None),
        ("yes", None),
    ],
)
def test_yes_and_no(text, extracted):
    problem = Problem(id="b/1", question="Q?", answer="yes", kind="bool")
    got = grade(problem, text)
    assert (got.correct, got.extracted) == (extracted == "yes", extracted)


@pytest.mark.parametrize(
    ("box", "correct"),
    [
        ("quarter to four", True),
        ("Quarter  to Four.", True),
        (r"\text{3:45}", True),
        ("four o’clock", True),
        ("four o'clock", True),
        ("quarter past four", False),
        ("", False),
    ],
)
def test_free_text_equals_the_answer_or_an_alias(box, correct):
    problem = Problem(id="t/1", question="Q?", answer="3:45", kind="text", aliases=("quarter to four", "four o'clock"))
    for grader in grading.GRADERS:
        assert grade(problem, f"\\boxed{{{box}}}", grader=grader).correct is correct


@pytest.mark.parametrize(
    ("box", "tolerant", "sentence"),
    [
        ("Sam is a bompus.", True, True),
        ("sam is a  bompus", True, True),
        ("bompus", True, False),
        (r"\text{a bompus}", True, False),
        ("Sam is a sterpus.", False, False),
        ("Sam is a bompus or a sterpus.", False, False),
        ("Sam is a bompuses.", False, False),
        ("Sam", False, False),
        ("", False, False),
    ],
)
def test_one_of_two_sentences_is_named_by_its_word(box, tolerant, sentence):
    options = ("Sam is a sterpus.", "Sam is a bompus.")
    problem = Problem(
        id="q/1", question="Is Sam a sterpus or bompus?", answer=options[1], kind="text", metadata={"options": options}
    )
    assert grade(problem, f"\\boxed{{{box}}}").correct is tolerant
    assert grade(problem, f"\\boxed{{{box}}}", grader="generalthinker").correct is sentence
    assert grade(problem, "Sam is a bompus.") == Grade(False, False, None)
