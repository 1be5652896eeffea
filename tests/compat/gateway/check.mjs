// Drives the published npm SDKs against the gateway; ends with an error when one of them is not content.
//
// What the provider behind the gateway does, and the environment, are told in check.py.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const TOKEN = process.env.GATEWAY_TOKEN;
const WEATHER = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
let answered = 0;

function took(input, output) {
  answered += 1;
  assert.deepEqual([input, output], [11, 7]);
}

const user = (content) => [{ role: "user", content }];

async function checkAnthropic(model) {
  const client = new Anthropic({ apiKey: TOKEN, maxRetries: 0 });
  const ask = { model, max_tokens: 100 };

  const message = await client.messages.create({ ...ask, messages: user("hello world") });
  assert.equal(message.content[0].text, "echo: hello world");
  assert.deepEqual([message.stop_reason, message.model], ["end_turn", model]);
  took(message.usage.input_tokens, message.usage.output_tokens);

  const pieces = [];
  const stream = client.messages.stream({ ...ask, messages: user("count to three") }).on("text", (text) => pieces.push(text));
  const final = await stream.finalMessage();
  assert.ok(pieces.length > 1, JSON.stringify(pieces));
  assert.equal(pieces.join(""), "echo: count to three");
  took(final.usage.input_tokens, final.usage.output_tokens);

  const tools = [{ name: "weather", input_schema: WEATHER }];
  const called = await client.messages.stream({ ...ask, tools, messages: user("/tool Paris") }).finalMessage();
  took(called.usage.input_tokens, called.usage.output_tokens);
  assert.equal(called.stop_reason, "tool_use");
  const call = called.content.find((block) => block.type === "tool_use");
  assert.deepEqual([call.name, call.input], ["weather", { city: "Paris" }]);
  const result = { type: "tool_result", tool_use_id: call.id, content: "18 degrees" };
  const messages = [...user("/tool Paris"), { role: "assistant", content: called.content }, { role: "user", content: [result] }];
  const told = await client.messages.create({ ...ask, tools, messages });
  assert.equal(told.content[0].text, "echo: 18 degrees");
  took(told.usage.input_tokens, told.usage.output_tokens);

  const counted = await client.messages.countTokens({ model, messages: user("one two three") });
  assert.ok(counted.input_tokens > 0);

  const limited = await client.messages.create({ ...ask, messages: user("/fail 429") }).catch((error) => error);
  assert.ok(limited instanceof Anthropic.RateLimitError, String(limited));
  assert.equal(limited.headers.get("retry-after"), "3");
  await assert.rejects(client.messages.create({ ...ask, messages: "nonsense" }), Anthropic.BadRequestError);
  await assert.rejects(client.messages.batches.retrieve("b_1"), Anthropic.NotFoundError);
  const stranger = new Anthropic({ apiKey: "sk-ant-of-somebody", maxRetries: 0 });
  await assert.rejects(stranger.messages.create({ ...ask, messages: user("hi") }), Anthropic.AuthenticationError);

  // Somebody who stops listening.
  const left = await client.messages.create({ ...ask, stream: true, messages: user("one two three four") });
  for await (const event of left) {
    if (event.type === "content_block_delta") break;
  }
  answered += 1;
}

async function checkChat(model) {
  const client = new OpenAI({ apiKey: TOKEN, maxRetries: 0 });
  const completion = await client.chat.completions.create({ model, messages: user("hello world") });
  assert.equal(completion.choices[0].message.content, "echo: hello world");
  assert.equal(completion.model, model);
  took(completion.usage.prompt_tokens, completion.usage.completion_tokens);

  let said = "";
  let usage = null;
  const asked = { model, messages: user("count to three"), stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create(asked)) {
    said += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(said, "echo: count to three");
  took(usage.prompt_tokens, usage.completion_tokens);

  answered += 1;
  for await (const chunk of await client.chat.completions.create({ model, messages: user("no usage"), stream: true })) {
    assert.ok(chunk.choices.length === 1 && !chunk.usage, JSON.stringify(chunk));
  }

  const tools = [{ type: "function", function: { name: "weather", parameters: WEATHER } }];
  const called = await client.chat.completions.create({ model, messages: user("/tool Paris"), tools });
  took(called.usage.prompt_tokens, called.usage.completion_tokens);
  const message = called.choices[0].message;
  assert.equal(called.choices[0].finish_reason, "tool_calls");
  assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { city: "Paris" });
  const messages = [...user("/tool Paris"), message, { role: "tool", tool_call_id: message.tool_calls[0].id, content: "18 degrees" }];
  const told = await client.chat.completions.create({ model, messages, tools });
  assert.equal(told.choices[0].message.content, "echo: 18 degrees");
  took(told.usage.prompt_tokens, told.usage.completion_tokens);

  const limited = await client.chat.completions.create({ model, messages: user("/fail 429") }).catch((error) => error);
  assert.ok(limited instanceof OpenAI.RateLimitError, String(limited));
  assert.equal(limited.headers.get("retry-after"), "3");
  await assert.rejects(client.embeddings.create({ model, input: "hello" }), OpenAI.NotFoundError);
  const stranger = new OpenAI({ apiKey: "sk-of-somebody", maxRetries: 0 });
  await assert.rejects(stranger.chat.completions.create({ model, messages: user("hi") }), OpenAI.AuthenticationError);
}

async function checkResponses(model) {
  const client = new OpenAI({ apiKey: TOKEN, maxRetries: 0 });
  const response = await client.responses.create({ model, input: "hello world" });
  assert.deepEqual([response.output_text, response.status], ["echo: hello world", "completed"]);
  took(response.usage.input_tokens, response.usage.output_tokens);

  let said = "";
  const stream = client.responses.stream({ model, input: "count to three" });
  stream.on("response.output_text.delta", (event) => (said += event.delta));
  const final = await stream.finalResponse();
  assert.deepEqual([said, final.output_text], ["echo: count to three", "echo: count to three"]);
  took(final.usage.input_tokens, final.usage.output_tokens);

  const tools = [{ type: "function", name: "weather", parameters: WEATHER, strict: false }];
  const called = await client.responses.create({ model, input: "/tool Paris", tools });
  took(called.usage.input_tokens, called.usage.output_tokens);
  const call = called.output.find((item) => item.type === "function_call");
  assert.deepEqual([call.name, JSON.parse(call.arguments)], ["weather", { city: "Paris" }]);
  const input = [...user("/tool Paris"), ...called.output, { type: "function_call_output", call_id: call.call_id, output: "18 degrees" }];
  const told = await client.responses.create({ model, input, tools });
  assert.equal(told.output_text, "echo: 18 degrees");
  took(told.usage.input_tokens, told.usage.output_tokens);

  await assert.rejects(client.responses.create({ model, input: "/fail 429" }), OpenAI.RateLimitError);
}

async function checkModels() {
  for (const client of [new Anthropic({ apiKey: TOKEN, maxRetries: 0 }), new OpenAI({ apiKey: TOKEN, maxRetries: 0 })]) {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model.id);
    assert.ok(listed.length > 0);
    for (const id of listed) assert.equal((await client.models.retrieve(id)).id, id);
  }
}

// Each SDK with its own vendor's model, and with the other's.
for (const model of ["claude-test-1", "gpt-test-1"]) {
  await checkAnthropic(model);
  await checkChat(model);
  await checkResponses(model);
}
await checkModels();
console.log(JSON.stringify({ answered }));
