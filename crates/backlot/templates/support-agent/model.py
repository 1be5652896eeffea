"""One call of the OpenAI Chat Completions API with nothing but the standard library.

The platform sets OPENAI_BASE_URL, OPENAI_API_KEY and the model's name; no provider key is in here.
"""

import json
import os
import re
import time
import urllib.error
import urllib.request

BASE = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1").rstrip("/")
MODEL = (
    os.environ.get("OPENAI_MODEL")
    or os.environ.get("CASTARI_DEFAULT_MODEL")
    or os.environ.get("ANTHROPIC_MODEL")
    or "gpt-4o-mini"
)
RETRIES = 3
# When the platform ends the run.
DEADLINE = float(os.environ.get("CASTARI_DEADLINE_UNIX_MS") or "inf") / 1000


class ModelError(Exception):
    """The model could not be asked; `status` is 0 when there was no answer at all."""

    def __init__(self, message, status=0):
        super().__init__(message)
        self.status = status

    @property
    def refuses_tools(self):
        """True when the model or the provider refused the request because of its tools."""
        return self.status in (400, 404, 422, 501) and re.search("tool|function", str(self), re.I) is not None


def ask(messages, tools=None, max_tokens=600):
    """Asks once and returns the model's message."""
    body = {"model": MODEL, "messages": messages, "max_tokens": max_tokens}
    if tools:
        body["tools"] = tools
    answer = _post("/chat/completions", body)
    try:
        return answer["choices"][0]["message"]
    except (KeyError, IndexError, TypeError):
        raise ModelError("the model's answer is not understood") from None


def _post(path, body):
    request = urllib.request.Request(
        BASE + path,
        data=json.dumps(body).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Bearer " + os.environ.get("OPENAI_API_KEY", ""),
        },
    )
    for attempt in range(RETRIES + 1):
        try:
            left = DEADLINE - time.time() - 3
            if left <= 0:
                raise ModelError("the model did not answer in the run's time")
            with urllib.request.urlopen(request, timeout=min(left, 300)) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            if attempt < RETRIES and (error.code == 429 or (error.code >= 500 and error.code != 501)):
                time.sleep(_wait(error.headers.get("Retry-After"), attempt))
                continue
            try:
                text = json.loads(text)["error"]["message"]
            except (ValueError, KeyError, TypeError):
                text = text[:500]
            raise ModelError(f"the model call failed ({error.code}): {text}", error.code) from None
        except (urllib.error.URLError, OSError, ValueError) as error:
            if attempt < RETRIES:
                time.sleep(_wait(None, attempt))
                continue
            raise ModelError(f"cannot reach the model: {error}") from None
    raise ModelError("cannot reach the model")


def _wait(retry_after, attempt):
    try:
        return min(max(float(retry_after), 0), 30)
    except (TypeError, ValueError):
        return 0.5 * 2**attempt
