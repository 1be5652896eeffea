// An MCP server with a few desk tools, over standard input and output, without dependencies.
// Weather, customers and notifications are samples: put your own systems behind them.

import { createInterface } from "node:readline";

const customers = [
  { id: 1, name: "Ada Lovelace", city: "London", open_invoices: 2 },
  { id: 2, name: "Grace Hopper", city: "New York", open_invoices: 0 },
  { id: 3, name: "Annie Easley", city: "Cleveland", open_invoices: 1 },
];

const weather = { lisbon: "22 °C, sunny", london: "14 °C, rain", "new york": "18 °C, cloudy", cleveland: "11 °C, windy" };

const text = { type: "string" };

const tools = {
  calculate: {
    description: "Work out an arithmetic expression with + - * / ^ and brackets.",
    input: { expression: text },
    run: ({ expression }) => String(calculate(String(expression))),
  },
  get_weather: {
    description: "Today's weather in a city (sample data for Lisbon, London, New York, Cleveland).",
    input: { city: text },
    run: ({ city }) => {
      const found = weather[String(city).trim().toLowerCase()];
      if (!found) throw new Error(`no weather for ${city}; there is ${Object.keys(weather).join(", ")}`);
      return found;
    },
  },
  find_customers: {
    description: "Find customers whose name or city contains a text (sample data).",
    input: { query: text },
    run: ({ query }) => {
      const wanted = String(query).toLowerCase();
      return JSON.stringify(customers.filter((c) => `${c.name} ${c.city}`.toLowerCase().includes(wanted)));
    },
  },
  notify: {
    description: "Notify a person of the team (sample: it is only written to the log).",
    input: { to: text, message: text },
    run: ({ to, message }) => {
      console.error(`notification for ${to}: ${message}`);
      return `notified ${to}`;
    },
  },
};

/** A small recursive-descent calculator: no eval, so an expression can do nothing but calculate. */
function calculate(source) {
  if (source.length > 500) throw new Error("the expression is too long");
  const tokens = source.match(/\d+(?:\.\d+)?(?:e[+-]?\d+)?|\S/gi) ?? [];
  let at = 0;
  const take = (token) => tokens[at] === token && ++at;

  function sum() {
    let value = product();
    for (;;) {
      if (take("+")) value += product();
      else if (take("-")) value -= product();
      else return value;
    }
  }
  function product() {
    let value = sign();
    for (;;) {
      if (take("*")) value *= sign();
      else if (take("/")) value /= sign();
      else return value;
    }
  }
  function sign() {
    if (take("-")) return -sign();
    if (take("+")) return sign();
    return power();
  }
  function power() {
    const base = atom();
    return take("^") ? base ** sign() : base;
  }
  function atom() {
    if (take("(")) {
      const value = sum();
      if (!take(")")) throw new Error("a bracket is not closed");
      return value;
    }
    const token = tokens[at++];
    if (token === undefined || !/^\d/.test(token)) throw new Error(`not an expression near "${token ?? "the end"}"`);
    return Number(token);
  }

  const value = sum();
  if (at < tokens.length) throw new Error(`not an expression near "${tokens[at]}"`);
  if (!Number.isFinite(value)) throw new Error("the result is not a finite number");
  return value;
}

function handle(method, params = {}) {
  switch (method) {
    case "initialize":
      return {
        protocolVersion: params.protocolVersion ?? "2025-06-18",
        capabilities: { tools: {} },
        serverInfo: { name: "desk", version: "0.1.0" },
      };
    case "ping":
      return {};
    case "tools/list":
      return {
        tools: Object.entries(tools).map(([name, { description, input }]) => ({
          name,
          description,
          inputSchema: { type: "object", properties: input, required: Object.keys(input) },
        })),
      };
    case "tools/call": {
      if (!Object.hasOwn(tools, params.name)) throw Object.assign(new Error(`no tool ${params.name}`), { code: -32602 });
      try {
        return { content: [{ type: "text", text: tools[params.name].run(params.arguments ?? {}) }], isError: false };
      } catch (error) {
        return { content: [{ type: "text", text: error.message }], isError: true };
      }
    }
    default:
      throw Object.assign(new Error(`no method ${method}`), { code: -32601 });
  }
}

const reply = (message) => process.stdout.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);

createInterface({ input: process.stdin }).on("line", (line) => {
  let message;
  try {
    message = JSON.parse(line);
  } catch {
    reply({ id: null, error: { code: -32700, message: "not JSON" } });
    return;
  }
  if (message.id === undefined) return;
  try {
    reply({ id: message.id, result: handle(message.method, message.params) });
  } catch (error) {
    reply({ id: message.id, error: { code: error.code ?? -32603, message: error.message } });
  }
});
