"""The tools of the support desk. Users and orders are samples in data/: put your own systems behind these functions."""

import json
import re
from pathlib import Path

DATA = Path(__file__).parent / "data"


def find_user(email):
    """Find a customer by e-mail."""
    for user in _load("users.json"):
        if user["email"].lower() == email.strip().lower():
            return user
    return {"error": f"no customer with the e-mail {email}"}


def find_orders(user_id=None, order_id=None):
    """Find the orders of a customer, or one order by its number."""
    orders = _load("orders.json")
    if order_id is not None:
        orders = [o for o in orders if o["id"] == str(order_id).lstrip("#")]
    if user_id is not None:
        orders = [o for o in orders if str(o["user_id"]) == str(user_id)]
    return orders or {"error": "no such order"}


def open_ticket(subject, description, urgent=False):
    """Open a ticket for a colleague, when the question cannot be answered here."""
    tickets = _load("tickets.json", [])
    ticket = {"id": f"T-{len(tickets) + 1}", "subject": subject, "description": description, "urgent": bool(urgent)}
    _save("tickets.json", [*tickets, ticket])
    return {"ticket": ticket["id"]}


def send_reply(email, text):
    """Send the customer a written reply by e-mail (sample: it is put into data/outbox.json)."""
    _save("outbox.json", [*_load("outbox.json", []), {"to": email, "text": text}])
    return {"sent_to": email}


_TEXT = {"type": "string"}
_ACTIONS = {
    "find_user": (find_user, {"email": _TEXT}, ["email"]),
    "find_orders": (find_orders, {"user_id": {"type": "integer"}, "order_id": _TEXT}, []),
    "open_ticket": (
        open_ticket,
        {"subject": _TEXT, "description": _TEXT, "urgent": {"type": "boolean"}},
        ["subject", "description"],
    ),
    "send_reply": (send_reply, {"email": _TEXT, "text": _TEXT}, ["email", "text"]),
}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": action.__doc__,
            "parameters": {"type": "object", "properties": properties, "required": required},
        },
    }
    for name, (action, properties, required) in _ACTIONS.items()
]


def call(name, arguments):
    """Carries out one call. A failure is an answer for the model, which can try something else."""
    try:
        action = _ACTIONS[name][0]
        result = action(**json.loads(arguments or "{}"))
    except KeyError:
        result = {"error": f"there is no tool {name}"}
    except (TypeError, ValueError, OSError) as error:
        result = {"error": str(error)}
    return json.dumps(result, ensure_ascii=False)


def mentioned(text):
    """What a message names: customers by e-mail and orders by number. For models that cannot use tools."""
    users = [find_user(e.rstrip(".")) for e in re.findall(r"[\w.+-]+@[\w.-]+", text)]
    orders = [o for n in re.findall(r"\b\d{4,}\b", text) for o in find_orders(order_id=n) if isinstance(o, dict)]
    return [record for record in [*users, *orders] if "error" not in record]


def _load(name, default=None):
    path = DATA / name
    if default is not None and not path.exists():
        return default
    return json.loads(path.read_text("utf-8"))


def _save(name, value):
    (DATA / name).write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")
