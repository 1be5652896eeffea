"""__AGENT_NAME__: a support desk. The customer's message comes on standard input, the reply goes to standard output,
notes for the log go to standard error.
"""

import json
import os
import sys
from pathlib import Path

from model import ModelError, ask
from tools import TOOLS, call, mentioned

MAX_TURNS = int(os.environ.get("CASTARI_MAX_TURNS") or 20)


def main():
    sys.stdout.reconfigure(encoding="utf-8")
    message = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    if not message:
        print("Write me what it is about, for example: I am ada@example.com. Where is my order 1001?")
        return
    try:
        reply = with_tools(message)
    except ModelError as error:
        if not error.refuses_tools:
            raise
        print("This model cannot use tools; looking up what the message names.", file=sys.stderr)
        reply = without_tools(message)
    if not reply.strip():
        raise ModelError("the model gave an empty answer")
    print(reply.strip())


def with_tools(message):
    """Lets the model look things up and act until it replies."""
    system = os.environ.get("CASTARI_SYSTEM_PROMPT") or (Path(__file__).parent / "AGENTS.md").read_text("utf-8")
    messages = [{"role": "system", "content": system}, {"role": "user", "content": message}]
    for _ in range(MAX_TURNS):
        answer = ask(messages, TOOLS)
        calls = answer.get("tool_calls") or []
        if not calls:
            return answer.get("content") or ""
        messages.append({"role": "assistant", "content": answer.get("content"), "tool_calls": calls})
        for use in calls:
            name, arguments = use["function"]["name"], use["function"]["arguments"]
            print(f"{name} {arguments[:200]}", file=sys.stderr)
            messages.append({"role": "tool", "tool_call_id": use["id"], "content": call(name, arguments)})
    raise ModelError(f"not done after {MAX_TURNS} turns")


def without_tools(message):
    """Puts the records that the message names beside it, and asks for a reply."""
    records = mentioned(message)
    known = f"\n\nOur records: {json.dumps(records, ensure_ascii=False)}" if records else ""
    prompt = f"Reply to this customer in two sentences.\n\nCustomer: {message}{known}"
    return ask([{"role": "user", "content": prompt}], max_tokens=512).get("content") or ""


if __name__ == "__main__":
    try:
        main()
    except ModelError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
