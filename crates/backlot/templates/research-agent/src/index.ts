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
// When the run is about to be ended, what has arrived of an answer is better than nothing.
const deadline = Number(process.env.CASTARI_DEADLINE_UNIX_MS) || Infinity;
const marginMs = 4000;
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
    const content = await ask({ model, max_tokens: 2048, system, tools, messages });
    const calls = content.filter((block): block is Anthropic.ToolUseBlock => block.type === "tool_use");
    if (calls.length === 0) return report || spoken(content);
    messages.push({ role: "assistant", content });
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
  return spoken(await ask({ model, max_tokens: 1024, messages: [{ role: "user", content }] }));
}

/** Asks once, streamed; shortly before the deadline it gives what text there is. */
async function ask(request: Anthropic.MessageStreamParams): Promise<Anthropic.ContentBlock[]> {
  const stream = client.messages.stream(request);
  let text = "";
  stream.on("text", (piece) => (text += piece));
  const left = deadline - marginMs - Date.now();
  const timer = left < 2 ** 31 ? setTimeout(() => stream.abort(), Math.max(left, 0)) : undefined;
  try {
    return (await stream.finalMessage()).content;
  } catch (error) {
    if (!(error instanceof Anthropic.APIUserAbortError)) throw error;
    if (!text) throw new Error("the model did not answer in the run's time");
    console.error("The answer was cut when the run's time was up.");
    return [{ type: "text", text, citations: null }];
  } finally {
    clearTimeout(timer);
  }
}

function spoken(content: Anthropic.ContentBlock[]): string {
  return content.map((block) => (block.type === "text" ? block.text : "")).join("");
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
