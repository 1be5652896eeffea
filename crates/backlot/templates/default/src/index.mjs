// __AGENT_NAME__: a coding agent. The prompt comes on standard input, the answer goes to standard output,
// notes for the log go to standard error.

import { readFileSync, writeFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import { ModelError, ask, refusesTools } from "./model.mjs";
import { call, tools } from "./tools.mjs";

const MAX_TURNS = Number(process.env.CASTARI_MAX_TURNS) || 30;
// In a session the folder is kept between runs, and with it what was said.
const MEMORY = process.env.CASTARI_SESSION_ID ? ".conversation.json" : null;
const REMEMBERED = 12;

async function main() {
  const prompt = (await text(process.stdin)).trim();
  if (!prompt) {
    console.log("Give me a task, for example: Write a program that prints the first 10 primes, and run it.");
    return;
  }
  const history = remember();
  let answer;
  try {
    answer = await work([...history, { role: "user", content: prompt }]);
  } catch (error) {
    if (!refusesTools(error)) throw error;
    console.error("This model cannot use tools; answering without them.");
    const plain = { system: "You are a helpful assistant. Answer in a few sentences.", maxTokens: 1024 };
    answer = await say({ ...plain, messages: [...history, { role: "user", content: prompt }] });
  }
  if (!answer.trim()) throw new ModelError("the model gave an empty answer");
  keep([...history, { role: "user", content: prompt }, { role: "assistant", content: answer }]);
}

/** Lets the model work with the tools until it has nothing more to call; returns all it said. */
async function work(messages) {
  const system = process.env.CASTARI_SYSTEM_PROMPT || readFileSync(new URL("../CLAUDE.md", import.meta.url), "utf8");
  const said = [];
  for (let turn = 0; turn < MAX_TURNS; turn++) {
    const { content, stopReason } = await ask({ system, messages, tools, onText: show });
    const spoken = content.filter((b) => b.type === "text").map((b) => b.text).join("");
    if (spoken.trim()) {
      said.push(spoken.trim());
      show("\n");
    }
    const calls = content.filter((b) => b.type === "tool_use");
    if (calls.length === 0) {
      explainCut(stopReason);
      return said.join("\n");
    }
    messages.push({ role: "assistant", content });
    const results = [];
    for (const { id, name, input } of calls) {
      console.error(`${name} ${JSON.stringify(input).slice(0, 200)}`);
      const result = await call(name, input);
      results.push({ type: "tool_result", tool_use_id: id, content: result.content, is_error: result.isError });
    }
    messages.push({ role: "user", content: results });
  }
  throw new Error(`not done after ${MAX_TURNS} turns`);
}

async function say(request) {
  const { content, stopReason } = await ask({ ...request, onText: show });
  show("\n");
  explainCut(stopReason);
  return content.filter((b) => b.type === "text").map((b) => b.text).join("");
}

function explainCut(stopReason) {
  if (stopReason === "max_tokens") console.error("The answer was cut at the model's token limit.");
  if (stopReason === "deadline") console.error("The answer was cut when the run's time was up; raise it with: backlot agents update __AGENT_SLUG__ --timeout");
}

function show(piece) {
  process.stdout.write(piece);
}

function remember() {
  if (!MEMORY) return [];
  try {
    return JSON.parse(readFileSync(MEMORY, "utf8"));
  } catch {
    return [];
  }
}

function keep(messages) {
  if (MEMORY) writeFileSync(MEMORY, JSON.stringify(messages.slice(-REMEMBERED)));
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
