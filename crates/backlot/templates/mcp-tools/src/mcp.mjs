// A client for MCP servers over standard input and output: JSON-RPC 2.0, one message per line.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const PROTOCOL = "2025-06-18";
const CALL_SECONDS = 60;

export class McpServer {
  #next = 1;
  #waiting = new Map();

  /** Starts a server as `mcp.json` describes it. It gets the variables named there, and not the agent's keys. */
  constructor(name, { command, args = [], env = {} }) {
    this.name = name;
    const { PATH, HOME, TMPDIR, LANG } = process.env;
    this.child = spawn(command, args, { env: { PATH, HOME, TMPDIR, LANG, ...env }, stdio: ["pipe", "pipe", "inherit"] });
    this.child.on("error", (error) => this.#fail(error.message));
    this.child.on("close", (code) => this.#fail(`it ended (${code})`));
    this.child.stdin.on("error", () => {}); // told by "close"
    createInterface({ input: this.child.stdout }).on("line", (line) => this.#receive(line));
  }

  /** Shakes hands and returns the server's tools. */
  async start() {
    await this.#request("initialize", {
      protocolVersion: PROTOCOL,
      capabilities: {},
      clientInfo: { name: "__AGENT_SLUG__", version: "0.1.0" },
    });
    this.#send({ jsonrpc: "2.0", method: "notifications/initialized" });
    const tools = [];
    let cursor;
    do {
      const page = await this.#request("tools/list", cursor ? { cursor } : {});
      tools.push(...page.tools);
      cursor = page.nextCursor;
    } while (cursor);
    return tools;
  }

  /** Calls a tool; returns its text and whether it failed. */
  async call(name, input) {
    const result = await this.#request("tools/call", { name, arguments: input });
    const text = (result.content ?? []).map((c) => (c.type === "text" ? c.text : `[${c.type}]`)).join("\n");
    return { content: text || "(no output)", isError: Boolean(result.isError) };
  }

  stop() {
    this.child.stdin.end();
    this.child.kill();
  }

  #request(method, params) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(new Error(`${this.name}: no answer to ${method} within ${CALL_SECONDS} s`));
      }, CALL_SECONDS * 1000);
      this.#waiting.set(id, { resolve, reject, timer });
      this.#send({ jsonrpc: "2.0", id, method, params });
    });
  }

  #send(message) {
    this.child.stdin.write(`${JSON.stringify(message)}\n`);
  }

  #receive(line) {
    let message;
    try {
      message = JSON.parse(line);
    } catch {
      console.error(`${this.name}: ${line}`);
      return;
    }
    if (message.method && message.id !== undefined) {
      // We offer the server nothing but an answer to "are you there?".
      const reply = message.method === "ping" ? { result: {} } : { error: { code: -32601, message: "not offered" } };
      this.#send({ jsonrpc: "2.0", id: message.id, ...reply });
      return;
    }
    const waiting = this.#waiting.get(message.id);
    if (!waiting) return;
    this.#waiting.delete(message.id);
    clearTimeout(waiting.timer);
    if (message.error) waiting.reject(new Error(`${this.name}: ${message.error.message}`));
    else waiting.resolve(message.result);
  }

  #fail(why) {
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new Error(`${this.name}: ${why}`));
    }
    this.#waiting.clear();
  }
}
