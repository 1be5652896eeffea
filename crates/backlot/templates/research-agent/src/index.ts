// __AGENT_NAME__: a researcher. The prompt comes on standard input, the report goes to standard output,
// notes for the log go to standard error.
// The SDK finds its address and key in ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY, which the platform sets.

import { readFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import Anthropic from "@anthropic-ai/sdk";
import { sources } from "./sources.js";
import { call, tools } from "./tools.js";

const client = new Anthropic();
const model = process.env.ANTHROPIC_MODEL || process.env.CASTARI_DEFAULT_MODEL || "claude-sonnet-4-5-20250929";
const maxTurns = Number(process.env.CASTARI_MAX_TURNS) || 20;

async function main(): Promise<void> {
  const question = (await text(process.stdin)).trim();
  if (!question) {
    console.log("Give me a question, for example: Compare the sandboxing of containers and microVMs.");
    return;
  }
  let answer: string;
  try {
    answer = await research(question);
  } catch (error) {
    if (!refusesTools(error)) throw error;
    console.error("This model cannot use tools; answering from the library's best note.");
    answer = await answerPlainly(question);
  }
  if (!answer.trim()) throw new Error("the model gave an empty answer");
  console.log(answer.trim());
}

/** Lets the model search and read until it answers; a report that it saved is the answer. */
async function research(question: string): Promise<string> {
  const system = process.env.CASTARI_SYSTEM_PROMPT || readFileSync(new URL("../CLAUDE.md", import.meta.url), "utf8");
  const messages: Anthropic.MessageParam[] = [{ role: "user", content: question }];
  let report = "";
  for (let turn = 0; turn < maxTurns; turn++) {
    const answer = await client.messages.create({ model, max_tokens: 2048, system, tools, messages });
    const calls = answer.content.filter((block): block is Anthropic.ToolUseBlock => block.type === "tool_use");
    if (calls.length === 0) return report || spoken(answer);
    messages.push({ role: "assistant", content: answer.content });
    const results = await Promise.all(
      calls.map(async (use): Promise<Anthropic.ToolResultBlockParam> => {
        console.error(`${use.name} ${JSON.stringify(use.input).slice(0, 200)}`);
        const result = await call(use.name, use.input);
        if (use.name === "write_report" && !result.is_error) report = String((use.input as { markdown: string }).markdown);
        return { type: "tool_result", tool_use_id: use.id, ...result };
      }),
    );
    messages.push({ role: "user", content: results });
  }
  if (report) return report;
  throw new Error(`not done after ${maxTurns} turns`);
}

/** Without tools: put the note that fits best into the question. */
async function answerPlainly(question: string): Promise<string> {
  const found = await call("search", { query: question });
  const url = found.content.match(/notes:\/\/\S+/)?.[0];
  const note = sources.find((source) => source.url === url);
  const content = note ? `${note.title}: ${note.text}\n\nUse this note to answer: ${question}` : question;
  const answer = await client.messages.create({ model, max_tokens: 1024, messages: [{ role: "user", content }] });
  return spoken(answer);
}

function spoken(answer: Anthropic.Message): string {
  return answer.content.map((block) => (block.type === "text" ? block.text : "")).join("");
}

function refusesTools(error: unknown): boolean {
  return (
    error instanceof Anthropic.APIError && [400, 404, 422, 501].includes(error.status ?? 0) && /tool|function/i.test(error.message)
  );
}

main().catch((error: Error) => {
  console.error(error.message);
  process.exitCode = 1;
});
