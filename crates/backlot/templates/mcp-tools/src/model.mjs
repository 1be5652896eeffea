// One call of the Anthropic Messages API, streamed, with nothing but Node's own fetch.
// The platform sets ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY and ANTHROPIC_MODEL; no provider key is in here.

const BASE = (process.env.ANTHROPIC_BASE_URL || "https://api.anthropic.com").replace(/\/+$/, "");
const MODEL = process.env.ANTHROPIC_MODEL || process.env.CASTARI_DEFAULT_MODEL || "claude-sonnet-4-5-20250929";
const RETRIES = 3;
// When the run is about to be ended, what has arrived of an answer is better than nothing.
const DEADLINE = Number(process.env.CASTARI_DEADLINE_UNIX_MS) || Infinity;
const MARGIN_MS = 4000;

export class ModelError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.name = "ModelError";
    this.status = status;
  }
}

/** True when the model or the provider refused the request because of its tools. */
export function refusesTools(error) {
  return error instanceof ModelError && [400, 404, 422, 501].includes(error.status) && /tool|function/i.test(error.message);
}

/**
 * Asks the model once. `onText` gets the text as it arrives.
 * Returns the answer's content blocks and the reason it stopped: "deadline" when the run's time was nearly up.
 */
export async function ask({ system, messages, tools, maxTokens = 2048, onText = () => {} }) {
  const stop = new AbortController();
  const left = DEADLINE - MARGIN_MS - Date.now();
  const timer = left < 2 ** 31 ? setTimeout(() => stop.abort(), Math.max(left, 0)) : undefined;
  try {
    return await send({ system, messages, tools, maxTokens, onText, signal: stop.signal });
  } catch (error) {
    if (stop.signal.aborted) throw new ModelError("the model did not answer in the run's time");
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

async function send({ system, messages, tools, maxTokens, onText, signal }) {
  const body = { model: MODEL, max_tokens: maxTokens, stream: true, messages };
  if (system) body.system = system;
  if (tools?.length) body.tools = tools;
  const response = await post("/v1/messages", body, signal);
  if (!(response.headers.get("content-type") || "").includes("text/event-stream")) {
    const answer = await response.json();
    const content = answer.content ?? [];
    for (const block of content) if (block.type === "text") onText(block.text);
    return { content, stopReason: answer.stop_reason };
  }
  return collect(events(response.body), onText, signal);
}

async function post(path, body, signal) {
  for (let attempt = 0; ; attempt++) {
    let response;
    try {
      response = await fetch(BASE + path, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          "anthropic-version": "2023-06-01",
          "x-api-key": process.env.ANTHROPIC_API_KEY || "",
        },
        body: JSON.stringify(body),
        signal,
      });
    } catch (error) {
      if (attempt >= RETRIES || signal.aborted) throw new ModelError(`cannot reach the model: ${error.cause?.message || error.message}`);
      await pause(500 * 2 ** attempt);
      continue;
    }
    if (response.ok) return response;
    const text = await response.text();
    if (attempt < RETRIES && (response.status === 429 || response.status >= 500) && response.status !== 501) {
      const wait = Number(response.headers.get("retry-after"));
      await pause(Number.isFinite(wait) && wait > 0 ? Math.min(wait, 30) * 1000 : 500 * 2 ** attempt);
      continue;
    }
    let message = text.slice(0, 500);
    try {
      message = JSON.parse(text).error?.message || message;
    } catch {
      // Not JSON: the text itself is the message.
    }
    throw new ModelError(`the model call failed (${response.status}): ${message}`, response.status);
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The JSON payloads of a server-sent event stream. */
async function* events(stream) {
  const decoder = new TextDecoder();
  let buffer = "";
  for await (const chunk of stream) {
    buffer += decoder.decode(chunk, { stream: true });
    let end;
    while ((end = buffer.indexOf("\n")) >= 0) {
      const line = buffer.slice(0, end).replace(/\r$/, "");
      buffer = buffer.slice(end + 1);
      if (line.startsWith("data:")) {
        const data = line.slice(5).trim();
        if (data && data !== "[DONE]") yield JSON.parse(data);
      }
    }
  }
}

async function collect(stream, onText, signal) {
  const content = [];
  try {
    const stopReason = await read(stream, content, onText);
    return { content: content.filter(Boolean), stopReason };
  } catch (error) {
    const text = content.filter((block) => block?.type === "text" && block.text);
    if (!signal.aborted || text.length === 0) throw error;
    return { content: text, stopReason: "deadline" };
  }
}

async function read(stream, content, onText) {
  const json = [];
  let stopReason = null;
  for await (const event of stream) {
    switch (event.type) {
      case "content_block_start":
        content[event.index] = { ...event.content_block };
        json[event.index] = "";
        if (event.content_block.text) onText(event.content_block.text);
        break;
      case "content_block_delta": {
        const block = content[event.index];
        const delta = event.delta;
        if (delta.type === "text_delta") {
          block.text += delta.text;
          onText(delta.text);
        } else if (delta.type === "input_json_delta") json[event.index] += delta.partial_json;
        else if (delta.type === "thinking_delta") block.thinking += delta.thinking;
        else if (delta.type === "signature_delta") block.signature = (block.signature || "") + delta.signature;
        break;
      }
      case "content_block_stop": {
        const block = content[event.index];
        if (block?.type === "tool_use" && json[event.index]) block.input = JSON.parse(json[event.index]);
        break;
      }
      case "message_delta":
        stopReason = event.delta?.stop_reason ?? stopReason;
        break;
      case "error":
        throw new ModelError(`the model broke off: ${event.error?.message || "unknown reason"}`);
    }
  }
  if (stopReason === null) throw new ModelError("the model's answer was cut off");
  return stopReason;
}
