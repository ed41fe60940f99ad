"""The client against a real HTTP server with faults: what is tried again, what ends a run, what is kept, and the key."""

import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import tinythinker
from tinythinker import _common, cli
from tinythinker._common import UserError
from tinythinker.config import TeacherSettings
from tinythinker.question_sets import QuestionSet
from tinythinker.questions import Question, fingerprint
from tinythinker.teacher.endpoint import Endpoint, RequestFailed, Stopped
from tinythinker.teacher.pace import Pace
from tinythinker.teacher.parse import Parsed, parse_reply
from tinythinker.teacher.prompt import reply_text
from tinythinker.teacher.teach import teach

KEY = "sk-planted-0123456789abcdef"


def good_reply(prompt):
    """What a teacher would say, with the question in it."""
    question = prompt.rpartition("Question: ")[2]
    count = len(re.findall(r"\([A-Z]\) ", question.splitlines()[1]))
    right = "ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(question.rstrip()[-1])
    return reply_text(f"Of {question.splitlines()[0]}", tuple(f"reason {n}." for n in range(count)), right)


class Teacher(BaseHTTPRequestHandler):
    """Answers by `server.faults`: a list with one entry for each request to come, None for none."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt, samples = body["messages"][0]["content"], body["n"]
        with self.server.lock:
            self.server.asked.append((time.monotonic(), prompt, samples, self.headers.get("Authorization")))
            fault = self.server.faults.pop(0) if self.server.faults else self.server.always
        time.sleep(self.server.delay)
        choices = [
            {"index": n, "message": {"role": "assistant", "content": good_reply(prompt)}, "finish_reason": "stop"}
            for n in range(samples)
        ]
        reply = {"object": "chat.completion", "choices": choices, "usage": {"total_tokens": 7}}
        match fault:
            case None:
                self.answer(200, reply)
            case "429":
                self.answer(
                    429, {"error": {"message": f"slow down, {self.headers['Authorization']}"}}, {"Retry-After": "1"}
                )
            case "429 date":
                soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
                self.answer(429, {"error": {"message": "slow down"}}, {"Retry-After": soon})
            case "500":
                self.answer(500, b"<h1>oops</h1>", {"Content-Type": "text/html"})
            case "503":
                self.answer(503, {"error": "overloaded"})
            case "slow":
                time.sleep(1.0)
                self.answer(200, reply)
            case "cut":
                content = json.dumps(reply).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
            case "closed":
                self.close_connection = True
            case "not JSON":
                self.answer(200, b'{"choices": [')
            case "not UTF-8":
                self.answer(200, b'{"choices": "\xff\xfe"}')
            case "wrong type":
                self.answer(200, b"<html>Sign in to the network</html>", {"Content-Type": "text/html"})
            case "no choices":
                self.answer(200, {"choices": []})
            case "another shape":
                self.answer(200, {"choices": [{"text": "hello"}]})
            case "a list":
                self.answer(200, [1, 2])
            case "a text":
                self.answer(200, {"choices": [{"message": "hello"}]})
            case "drip":
                content = json.dumps(reply).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                try:
                    for byte in content:
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.02)
                except OSError:  # the client has hung up
                    self.close_connection = True
            case "long":
                said = f"{'x' * self.server.before} {self.headers['Authorization']} and so on"
                self.answer(400, {"error": {"message": said}})
            case "a passing 400":
                self.answer(400, {"error": {"message": "something"}})
            case "number":
                self.answer(200, {"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]})
            case "one choice":
                self.answer(200, {"choices": choices[:1]})
            case "only n = 1":
                self.answer(*((200, reply) if samples == 1 else (400, {"error": {"message": "n must be 1"}})))
            case "echo":
                choices[0]["message"]["content"] += f"\n{self.headers['Authorization']}"
                self.answer(200, reply)
            case "refused":
                self.answer(400, {"error": {"message": "this prompt is not allowed", "code": "content_filter"}})
            case "no money":
                self.answer(429, {"error": {"message": "quota", "code": "insufficient_quota"}})
            case "wrong key":
                self.answer(401, {"error": {"message": f"Incorrect API key provided: {self.headers['Authorization']}"}})
            case "not found":
                self.answer(404, {"error": {"message": "the model does not exist"}})
            case "elsewhere":
                self.answer(302, b"", {"Location": f"http://localhost:{self.server.server_port}/elsewhere"})
        with self.server.lock:
            self.server.answered += fault is None

    def do_GET(self):
        self.server.followed = True
        self.answer(200, {})

    def answer(self, status, body, headers=None):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Teacher)
    server.daemon_threads = True
    server.lock, server.asked, server.faults, server.always = threading.Lock(), [], [], None
    server.delay, server.answered, server.followed = 0.0, 0, False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)


def settings_for(server, **changed):
    defaults = {
        "model": "teacher-1", "base_url": f"http://127.0.0.1:{server.server_port}/v1", "api_key_env": "TEACHER_KEY",
        "samples": 2, "first_pause": 0.01, "timeout": 10.0, "concurrency": 4, "attempts": 4,
    }  # fmt: skip
    return TeacherSettings(**defaults | changed)


def question_set(count=6):
    questions = tuple(Question(f"q{n}", f"Which {n}?", ("one", "two", "three"), n % 3) for n in range(count))
    return QuestionSet(
        "mine", "all", questions, "a list", None, fingerprint(questions), frozenset(q.id for q in questions)
    )


def taught(server, folder, count=6, **changed):
    said = []
    teach(question_set(count), settings_for(server, **changed), folder, dry_run=False, say=said.append)
    return said


def rows_in(folder):
    lines = (folder / "replies.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[1:]]


def asked_questions(server, start=0):
    return [
        re.search(r"Which (\d+)\?", prompt.rpartition("Question: ")[2])[1] for _, prompt, _, _ in server.asked[start:]
    ]


# ---------------------------------------------------------------------------------------------------------- one request


def test_a_request_holds_what_was_set_and_the_key_in_its_header(server):
    with Endpoint(settings_for(server)) as endpoint:
        replies = endpoint.ask("Question: Which 1?\nOptions: (A) one (B) two\nRight answer: A", 3)
    assert len(replies) == 3 and replies[0].finish_reason == "stop"
    assert isinstance(parse_reply(replies[0].text, replies[0].finish_reason, 2), Parsed)
    ((_, _, samples, authorization),) = server.asked
    assert samples == 3 and authorization == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "fault",
    ["429", "429 date", "500", "503", "slow", "cut", "closed", "not JSON", "not UTF-8", "wrong type", "no choices",
     "another shape", "a list", "a text", "number", "drip"],
)  # fmt: skip
def test_a_fault_that_may_pass_is_tried_again(server, fault):
    server.faults = [fault]
    with Endpoint(settings_for(server, timeout=0.5, deadline=1.0)) as endpoint:
        assert len(endpoint.ask("Question: Which 1?\nOptions: (A) one (B) two\nRight answer: A", 1)) == 1
    assert len(server.asked) == 2
    if fault in ("429", "429 date"):
        assert server.asked[1][0] - server.asked[0][0] >= (0.98 if fault == "429" else 0.5)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("2.5", 2.5), ("0", 0), ("-3", 0), ("inf", 3600), ("nan", 0), ("99999999", 3600), ("soon", None),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Wed, 21 Oct 2099 07:28:00 GMT", 3600), (None, None)],
)  # fmt: skip
def test_what_a_retry_after_asks_for(header, seconds):
    from httpx2 import Response

    from tinythinker.teacher.endpoint import _retry_after

    assert _retry_after(Response(429, headers={} if header is None else {"Retry-After": header})) == seconds


def test_pauses_double_up_to_the_longest():
    settings = TeacherSettings(
        api_key_env=None, base_url="http://127.0.0.1:9/v1", attempts=5, longest_pause=8, first_pause=2
    )
    waited = []
    with Endpoint(settings) as endpoint:
        endpoint._wait = lambda seconds: waited.append(seconds)
        with pytest.raises(RequestFailed, match=r"the connection failed .*, 5 times"):
            endpoint.ask("?", 1)
    pauses = [seconds for seconds in waited if seconds > 0]
    for pause, longest in zip(pauses, [2, 4, 8, 8], strict=True):
        assert longest / 2 <= pause <= longest


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "wrong key",
            r"the server said 401 \(Incorrect API key provided: Bearer \[key\]\): check the key in TEACHER_KEY",
        ),
        ("no money", r"429 \(quota\): the account has nothing left to spend"),
        ("not found", r"404 \(the model does not exist\): check teacher.base_url .* and teacher.model"),
        ("elsewhere", r"the server said 302: check teacher.base_url"),
    ],
)
def test_what_will_not_pass_ends_the_run_at_once(server, tmp_path, fault, message):
    server.always = fault
    with pytest.raises(UserError, match=message):
        taught(server, tmp_path, count=40, concurrency=2)
    assert len(server.asked) <= 4 and not server.followed
    assert rows_in(tmp_path) == []


def test_a_server_that_is_not_there_is_given_up(tmp_path):
    settings = TeacherSettings(
        base_url="http://127.0.0.1:9/v1", api_key_env=None, attempts=2, first_pause=0.01, samples=1, concurrency=2
    )
    with pytest.raises(UserError, match=r"10 requests in a row came to nothing, the last one: the connection failed"):
        teach(question_set(30), settings, tmp_path, dry_run=False, say=lambda _: None)


# -------------------------------------------------------------------------------------------------------- many requests


def test_all_replies_are_kept_with_their_numbers_whatever_fails_between(server, tmp_path):
    server.faults = [None, "500", "cut", None, "not JSON", "one choice", "429", "slow", "closed", "wrong type"]
    taught(server, tmp_path, count=12, samples=3, timeout=0.5, attempts=8)
    rows = rows_in(tmp_path)
    assert sorted((row["id"], row["sample"]) for row in rows) == sorted(
        (f"q{n}", s) for n in range(12) for s in range(3)
    )
    for row in rows:
        number = int(row["id"][1:])
        parsed = parse_reply(row["reply"], row["finish_reason"], 3)
        assert parsed.correct == number % 3 and f"Which {number}?" in parsed.explanation.knowledge


def test_what_is_there_is_not_asked_again(server, tmp_path):
    taught(server, tmp_path, count=6, samples=2)
    assert len(server.asked) == 6
    taught(server, tmp_path, count=6, samples=2)
    assert len(server.asked) == 6
    taught(server, tmp_path, count=6, samples=5)  # three more of each
    assert [samples for _, _, samples, _ in server.asked[6:]] == [3] * 6
    assert sorted(row["sample"] for row in rows_in(tmp_path)) == sorted([*range(5)] * 6)


@pytest.mark.parametrize("always", ["one choice", "only n = 1"])
def test_servers_that_give_one_choice_at_a_time(server, tmp_path, always):
    server.always = always
    taught(server, tmp_path, count=2, samples=3, concurrency=1)
    assert sorted((row["id"], row["sample"]) for row in rows_in(tmp_path)) == [
        (q, s) for q in ("q0", "q1") for s in range(3)
    ]


def test_a_server_of_one_choice_is_asked_at_the_pace_that_was_set(server):
    server.always = "only n = 1"
    said = []
    with Endpoint(settings_for(server, requests_per_minute=150), said.append) as endpoint:
        for _ in range(4):
            assert len(endpoint.ask("Question: Which 1?\nOptions: (A) one (B) two\nRight answer: A", 3)) == 1
    assert [samples for _, _, samples, _ in server.asked] == [3, 1, 3, 1, 1, 1]
    times = [at for at, *_ in server.asked]
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.3, "four tenths of a second, less what the way takes"
    assert len(said) == 1 and "the tokens of the prompt are paid for each time" in said[0]


def test_after_a_stop_no_single_reply_is_asked_for(server):
    server.always = "only n = 1"
    with Endpoint(settings_for(server)) as endpoint:
        own = endpoint._post

        def stopped_meanwhile(prompt, samples):
            endpoint.stop()
            return own(prompt, samples)

        endpoint._post = stopped_meanwhile
        with pytest.raises(Stopped):
            endpoint.ask("Question: Which 1?\nOptions: (A) one (B) two\nRight answer: A", 3)
    assert len(server.asked) == 1


def test_a_400_that_passes_does_not_make_every_prompt_paid_for_each_reply(server, tmp_path):
    server.faults = ["a passing 400"]
    taught(server, tmp_path, count=6, samples=4, concurrency=1)
    assert [samples for _, _, samples, _ in server.asked] == [4, 1, 3, 4, 4, 4, 4, 4]
    before = len(server.asked)
    server.faults = [None, "a passing 400"]  # where several were given, it is a refusal like any other
    with Endpoint(settings_for(server)) as endpoint:
        prompt = "Question: Which 1?\nOptions: (A) one (B) two\nRight answer: A"
        assert len(endpoint.ask(prompt, 3)) == 3
        with pytest.raises(RequestFailed, match=r"the server said 400 \(something\)"):
            endpoint.ask(prompt, 3)
    assert len(server.asked) == before + 2


def test_a_refused_request_does_not_stop_the_others_and_is_asked_again_next_time(server, tmp_path):
    server.faults = ["refused"]
    with pytest.raises(
        UserError, match=r"1 questions have not all their replies, the first is q0: the server said 400 "
    ):
        taught(server, tmp_path, samples=1, concurrency=1)
    assert {row["id"] for row in rows_in(tmp_path)} == {f"q{n}" for n in range(1, 6)}
    before = len(server.asked)
    taught(server, tmp_path, samples=1)
    assert asked_questions(server, before) == ["0"]


def test_other_settings_or_questions_do_not_get_into_one_file(server, tmp_path):
    taught(server, tmp_path)
    with pytest.raises(UserError, match=r"written under other settings: temperature was 0.8 and is 0.5"):
        taught(server, tmp_path, temperature=0.5, samples=9)
    with pytest.raises(UserError, match=r"written under other settings: fingerprint was"):
        taught(server, tmp_path, count=7)


def test_the_limit_of_requests_a_minute_spreads_them(server, tmp_path):
    taught(server, tmp_path, count=5, requests_per_minute=600)
    times = sorted(at for at, *_ in server.asked)
    assert times[-1] - times[0] >= 0.37  # four gaps of a tenth of a second, less what the way takes


def test_departures_under_limits_and_holds():
    now = [100.0]
    pace = Pace(60, 6000, clock=lambda: now[0])
    assert [pace.seconds_to_wait(10) for _ in range(3)] == pytest.approx([0, 1, 2])
    assert pace.seconds_to_wait(1000) == pytest.approx(3)
    assert pace.seconds_to_wait(10) == pytest.approx(13)  # a thousand tokens are ten seconds
    pace.hold(60)
    assert pace.held() == 60 and pace.seconds_to_wait(10) == pytest.approx(60)
    now[0] += 100
    assert pace.held() == 0 and pace.seconds_to_wait(10) == 0
    assert [Pace(None, None).seconds_to_wait(10**6) for _ in range(3)] == [0, 0, 0]


# ------------------------------------------------------------------------------------------------------------ the ends


def file_of_questions(folder, count):
    path = folder / "mine.jsonl"
    rows = [
        {"id": q.id, "question": q.text, "options": q.options, "answer": q.answer}
        for q in question_set(count).questions
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def started(server, folder, path, *more):
    command = [
        sys.executable, "-c", "from tinythinker.cli import main; main()", "data", "teach", "--file", str(path),
        "--split", "all", "--output", str(folder), f"teacher.base_url=http://127.0.0.1:{server.server_port}/v1",
        "teacher.api_key_env=TEACHER_KEY", "teacher.samples=1", "teacher.concurrency=3", "teacher.first_pause=0.01", *more,
    ]  # fmt: skip
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A run in the background of a script inherits an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_in_the_middle_nothing_is_lost_and_nothing_asked_twice(server, tmp_path):
    path, folder, server.delay = file_of_questions(tmp_path, 40), tmp_path / "out", 0.03
    for kills, goal in enumerate((7, 19), start=1):
        already = {row["id"] for row in rows_in(folder)} if folder.exists() else set()
        before = len(server.asked)
        process = started(server, folder, path)
        wait_until(lambda goal=goal: server.answered >= goal)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = {row["id"] for row in rows_in(folder)}
        asked = {f"q{number}" for number in asked_questions(server, before)}
        assert already <= kept
        assert not asked & already  # what there was a reply to
        # Lost are at most the requests that were on their way, one for each thread.
        assert len(kept) >= goal - kills * 3 and len(asked - kept) <= 3
    already, before = {row["id"] for row in rows_in(folder)}, len(server.asked)
    process = started(server, folder, path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert f"{len(already)} replies are there already" in out
    assert sorted(asked_questions(server, before)) == sorted(
        {f"{n}" for n in range(40)} - {name[1:] for name in already}
    )
    assert sorted(row["id"] for row in rows_in(folder)) == sorted(f"q{n}" for n in range(40))


def test_a_line_that_was_cut_by_a_kill_is_asked_again(server, tmp_path):
    taught(server, tmp_path, samples=1, concurrency=1)
    file = tmp_path / "replies.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    before = len(server.asked)
    taught(server, tmp_path, samples=1)
    assert asked_questions(server, before) == ["5"] and len(rows_in(tmp_path)) == 6


def test_an_interrupt_keeps_the_replies_that_are_on_their_way(server, tmp_path):
    path, folder, server.delay = file_of_questions(tmp_path, 400), tmp_path / "out", 0.1
    process = started(server, folder, path)
    wait_until(lambda: server.answered >= 5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert len(rows_in(folder)) == server.answered == len(server.asked)


# -------------------------------------------------------------------------------------------------------------- the key


def test_the_key_is_in_no_file_log_or_error(server, tmp_path, caplog, capfd):
    """The server says the key in every text that it sends: in faults, in replies, and in the error that ends the run."""
    caplog.set_level(logging.DEBUG)
    path, folder = file_of_questions(tmp_path, 6), tmp_path / "out"
    server.faults = ["429", "echo", "echo", "500"]
    arguments = [
        "data", "teach", "--file", str(path), "--split", "all", "--output", str(folder), "--traceback",
        f"teacher.base_url=http://127.0.0.1:{server.server_port}/v1", "teacher.api_key_env=TEACHER_KEY",
        "teacher.samples=1", "teacher.first_pause=0.01", "teacher.concurrency=1",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        _common.run(cli.app, arguments)
    assert caught.value.code == 0
    replies = (folder / "replies.jsonl").read_text()
    assert replies.count("Bearer [key]") == 2
    for fault, expected in (("wrong key", "401"), ("429", "429")):
        server.always = fault
        with pytest.raises(SystemExit) as caught:
            _common.run(cli.app, [*arguments, "teacher.samples=2", "teacher.attempts=1"])
        assert caught.value.code == 2
        error = capfd.readouterr().err
        assert expected in error and "[key]" in error and KEY not in error
    assert any(KEY in str(authorization) for *_, authorization in server.asked)
    assert KEY not in caplog.text
    out, err = capfd.readouterr()
    assert KEY not in out + err
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("before", range(130, 200, 5))
def test_no_part_of_the_key_is_shown_where_a_message_is_shortened(server, before):
    server.always = "long"
    server.before = before
    with Endpoint(settings_for(server)) as endpoint, pytest.raises(RequestFailed) as caught:
        endpoint.ask("Question: Which 1?\nOptions: (A) one (B) two\nRight answer: A", 1)
    assert KEY[:4] not in str(caught.value)
    assert len(str(caught.value)) <= 200 + len("the server said 400 ()")


def test_without_a_key_nothing_is_written(server, tmp_path, monkeypatch):
    monkeypatch.delenv("TEACHER_KEY")
    with pytest.raises(UserError, match="the environment variable TEACHER_KEY holds no key"):
        taught(server, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not server.asked
    taught(server, tmp_path / "out", api_key_env=None)
    assert {authorization for *_, authorization in server.asked} == {None}


def test_a_key_with_a_line_break_is_refused_and_not_shown(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "sk-secret\nsecond-line")
    with pytest.raises(UserError) as caught:
        taught(server, tmp_path / "out")
    assert "TEACHER_KEY" in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    ["teacher.api_key_env=sk-secret", "teacher.base_url=http://me:sk-secret@localhost/v1",
     "teacher.base_url=http://localhost/v1?key=sk-secret"],
)  # fmt: skip
def test_a_key_in_the_wrong_place_is_refused_and_not_shown(tmp_path, capsys, setting):
    with pytest.raises(SystemExit) as caught:
        _common.run(cli.app, ["data", "teach", "--benchmark", "facts", "--output", str(tmp_path / "out"), setting])
    err = capsys.readouterr().err
    assert caught.value.code == 2 and "environment" in err and "secret" not in err


def test_the_package_under_test_is_what_the_subprocess_runs():
    found = subprocess.run(
        [sys.executable, "-c", "import tinythinker; print(tinythinker.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert os.path.samefile(found.stdout.strip(), tinythinker.__file__)
