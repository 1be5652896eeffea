// __AGENT_NAME__: gives a model the tools of the MCP servers named in mcp.json.
// The prompt comes on standard input, the answer goes to standard output, notes for the log go to standard error.

import { readFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import { McpServer } from "./mcp.mjs";
import { ModelError, ask, refusesTools } from "./model.mjs";

const MAX_TURNS = Number(process.env.CASTARI_MAX_TURNS) || 20;

async function main() {
  const prompt = (await text(process.stdin)).trim();
  if (!prompt) {
    console.log("Ask me something, for example: What is 12.5 % of 1840, and will it rain in Lisbon?");
    return;
  }
  const { mcpServers } = JSON.parse(readFileSync("mcp.json", "utf8"));
  const servers = Object.entries(mcpServers).map(([name, config]) => new McpServer(name, config));
  try {
    const toolbox = await gather(servers);
    console.error(`tools: ${[...toolbox.keys()].join(", ")}`);
    const answer = await work(prompt, toolbox);
    if (!answer.trim()) throw new ModelError("the model gave an empty answer");
    console.log(answer.trim());
  } finally {
    for (const server of servers) server.stop();
  }
}

/** The tools of all servers under names like `desk__calculate`. A server that does not start is left out. */
async function gather(servers) {
  const toolbox = new Map();
  const lists = await Promise.allSettled(servers.map((server) => server.start()));
  lists.forEach((list, index) => {
    const server = servers[index];
    if (list.status === "rejected") {
      console.error(`left out: ${list.reason.message}`);
      return;
    }
    for (const { name, description = "", inputSchema } of list.value) {
      const full = `${server.name}__${name}`.replace(/[^A-Za-z0-9_-]/g, "_").slice(0, 64);
      toolbox.set(full, { server, name, spec: { name: full, description, input_schema: inputSchema } });
    }
  });
  return toolbox;
}

async function work(prompt, toolbox) {
  const system = process.env.CASTARI_SYSTEM_PROMPT || readFileSync("CLAUDE.md", "utf8");
  const tools = [...toolbox.values()].map((t) => t.spec);
  const messages = [{ role: "user", content: prompt }];
  for (let turn = 0; turn < MAX_TURNS; turn++) {
    let answer;
    try {
      answer = await ask({ system, messages, tools, maxTokens: 1024 });
    } catch (error) {
      if (!refusesTools(error)) throw error;
      console.error("This model cannot use tools; answering without them.");
      const plain = { system: "You are a helpful assistant. Answer in a few sentences.", maxTokens: 1024 };
      answer = await ask({ ...plain, messages: [{ role: "user", content: prompt }] });
    }
    const calls = answer.content.filter((b) => b.type === "tool_use");
    if (answer.stopReason === "deadline") console.error("The answer was cut when the run's time was up.");
    if (calls.length === 0) return answer.content.filter((b) => b.type === "text").map((b) => b.text).join("\n");
    messages.push({ role: "assistant", content: answer.content });
    messages.push({ role: "user", content: await Promise.all(calls.map((call) => use(call, toolbox))) });
  }
  throw new Error(`not done after ${MAX_TURNS} turns`);
}

/** Carries out one call. A failure is an answer for the model, which can try something else. */
async function use({ id, name, input }, toolbox) {
  console.error(`${name} ${JSON.stringify(input).slice(0, 200)}`);
  let result;
  try {
    const tool = toolbox.get(name);
    if (!tool) throw new Error(`there is no tool ${name}`);
    result = await tool.server.call(tool.name, input);
  } catch (error) {
    result = { content: `error: ${error.message}`, isError: true };
  }
  return { type: "tool_result", tool_use_id: id, content: result.content, is_error: result.isError };
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
