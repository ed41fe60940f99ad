"""A teacher behind an HTTP endpoint that speaks the OpenAI protocol (`POST <base_url>/chat/completions`).

What may pass is tried again after a pause that doubles, or after the time that the server's Retry-After asks for: 408,
409, 429, 5xx, broken connections, time-outs, and replies that are cut, not JSON or not a completion. A 400 to a request
for several replies is asked again for one, since some servers give no more. A wrong key or address ends the run at
once. The key goes into one header and nowhere else: it is cut out of all that comes back.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from .._common import UserError
from ..config import TeacherSettings
from .pace import Pace
from .prompt import estimated_tokens

LONGEST_RETRY_AFTER = 3600.0  # seconds
REFUSALS = 2  # of several replies, before no request asks for several: one alone may be chance
LONGEST_SHOWN = 200  # characters of what a server says of a fault


@dataclass(frozen=True, slots=True)
class Reply:
    """One sampled reply. finish_reason: "stop", "length", "content_filter", ..."""

    text: str | None
    finish_reason: str | None


class RequestFailed(Exception):
    """A request that came to nothing; the message says why, without the key."""


class Stopped(Exception):
    """The run ends, and this request was given up before it left."""


class _SeveralRefused(Exception):
    """The server may be one that gives one reply at a time."""


class _Passing(Exception):
    """A fault that may pass. seconds: what the server asks to wait, None where it does not say."""

    def __init__(self, reason: str, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Endpoint:
    """A client that threads may share. Close it, or use it in a `with`."""

    def __init__(self, settings: TeacherSettings, say: Callable[[str], None] = lambda text: None) -> None:
        """UserError if the variable that should hold the key holds none. say: told what makes it dearer than asked."""
        self._settings = settings
        self._say = say
        self._key = ""
        if settings.api_key_env is not None:
            self._key = os.environ.get(settings.api_key_env, "").strip()
            if not self._key:
                raise UserError(
                    f"the environment variable {settings.api_key_env} holds no key: set it, or say "
                    "teacher.api_key_env=null for a server that needs none"
                )
            if not re.fullmatch(r"[!-~]+", self._key):
                # Checked here, since the error of the HTTP library would show the header.
                raise UserError(
                    f"the key in {settings.api_key_env} holds a space, a line break or a letter beyond ASCII"
                )
        self._pace = Pace(settings.requests_per_minute, settings.tokens_per_minute)
        self._stop = threading.Event()
        self._url = f"{settings.base_url.rstrip('/')}/chat/completions"
        self._gave_several = False
        self._refused_several = 0  # requests that were answered only when they asked for one reply
        self._said_so = False
        limits = httpx2.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx2.Client(timeout=settings.timeout, limits=limits, headers=headers)

    def stop(self) -> None:
        """Requests that wait are given up; those on their way come to their end."""
        self._stop.set()

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, prompt: str, samples: int) -> list[Reply]:
        """At least one reply to the prompt, and at most `samples`: some servers give one at a time.

        Raises RequestFailed for a request that the server refuses, or that failed as often as the settings allow;
        UserError for a wrong key or address; Stopped after `stop`.
        """
        settings, failed, refused = self._settings, 0, False
        while True:
            asked = 1 if refused or self._refused_several >= REFUSALS else samples
            self._wait(self._pace.seconds_to_wait(estimated_tokens(prompt) + asked * settings.max_tokens))
            while (held := self._pace.held()) > 0:
                self._wait(held)
            try:
                replies = self._post(prompt, asked)[:samples]
            except _SeveralRefused:
                refused = True  # once at most: one reply is not several
            except _Passing as fault:
                failed += 1
                if failed == settings.attempts:
                    raise RequestFailed(f"{fault}, {settings.attempts} times") from None
                pause = min(settings.longest_pause, settings.first_pause * 2 ** (failed - 1))
                pause *= random.uniform(0.5, 1.0)
                if fault.seconds is not None:
                    pause = max(pause, fault.seconds)
                    self._pace.hold(fault.seconds)
                self._wait(pause)
            else:
                self._refused_several += refused
                self._gave_several |= len(replies) > 1
                if len(replies) < samples and not self._said_so:
                    self._said_so = True
                    self._say(
                        "the server gives fewer replies to a request than were asked for: what is missing is asked "
                        "for again, and the tokens of the prompt are paid for each time"
                    )
                return replies

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds) if seconds > 0 else self._stop.is_set():
            raise Stopped

    def _post(self, prompt: str, samples: int) -> list[Reply]:
        body = {
            "model": self._settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self._settings.temperature,
            "max_tokens": self._settings.max_tokens,
            "n": samples,
        }
        try:
            response, content = self._whole(body)
        except httpx2.TimeoutException:
            raise _Passing(f"no answer within {self._settings.timeout:g} seconds") from None
        except httpx2.UnsupportedProtocol as error:
            raise UserError(f"teacher.base_url: {self._without_key(str(error))}") from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _Passing(f"the connection failed ({self._without_key(str(error)) or type(error).__name__})") from None
        if response.status_code == 200:
            return self._replies(response, content)
        if response.status_code == 400 and samples > 1 and not self._gave_several:
            raise _SeveralRefused
        raise self._fault(response, content)

    def _whole(self, body: Mapping[str, Any]) -> tuple[httpx2.Response, bytes]:
        """A response and its content. The client's own time-out is of one byte, and a server may drip them."""
        longest = self._settings.deadline
        began = time.monotonic()
        with self._client.stream("POST", self._url, json=body) as response:
            parts = []
            for part in response.iter_bytes():
                parts.append(part)
                if time.monotonic() - began > longest:
                    raise _Passing(f"no whole answer within {longest:g} seconds")
            return response, b"".join(parts)

    def _replies(self, response: httpx2.Response, content: bytes) -> list[Reply]:
        try:
            choices = json.loads(content)["choices"]
            replies = [self._reply(choice) for choice in choices]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            kind = response.headers.get("content-type", "no content type")
            raise _Passing(
                f"the server answered something else than a completion ({self._without_key(kind)})"
            ) from None
        if not replies:
            raise _Passing("the server answered without a choice")
        return replies

    def _reply(self, choice: dict[str, Any]) -> Reply:
        """KeyError, TypeError or AttributeError for what is no choice."""
        text, finish_reason = choice["message"].get("content"), choice.get("finish_reason")
        if not isinstance(text, str | None) or not isinstance(finish_reason, str | None):
            raise TypeError
        return Reply(None if text is None else self._without_key(text), finish_reason)

    def _fault(self, response: httpx2.Response, content: bytes) -> Exception:
        status, (message, code) = response.status_code, _said(content)
        # The key goes before the message is shortened: of one that is cut in two, a half would stay.
        line = self._without_key(message)
        detail = f" ({line if len(line) <= LONGEST_SHOWN else line[: LONGEST_SHOWN - 3] + '...'})" if line else ""
        shown = f"the server said {status}{detail}"
        if code == "insufficient_quota" or status == 402:
            return UserError(f"{shown}: the account has nothing left to spend")
        if status in (401, 403):
            return UserError(f"{shown}: check the key in {self._settings.api_key_env or 'teacher.api_key_env'}")
        if status == 404 or 300 <= status < 400:
            return UserError(f"{shown}: check teacher.base_url ({self._settings.base_url}) and teacher.model")
        if status in (408, 409, 429) or status >= 500:
            return _Passing(shown, _retry_after(response))
        return RequestFailed(shown)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _said(content: bytes) -> tuple[str, str | None]:
    """What the body of a fault says, in one line, and its code. It may hold the key."""
    try:
        error = json.loads(content)["error"]
        message, code = (error["message"], error.get("code")) if isinstance(error, dict) else (str(error), None)
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", None
    return " ".join(str(message).split()), code


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds that a Retry-After asks for, given as a number or as a date; at most an hour."""
    value = response.headers.get("retry-after")
    if value is None:
        return None
    try:
        return min(max(0.0, float(value)), LONGEST_RETRY_AFTER)
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    seconds = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER)
