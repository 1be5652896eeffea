// The tools of the researcher: search, read, and write the report.

import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type Anthropic from "@anthropic-ai/sdk";
import { sources } from "./sources.js";

const MAX_TEXT = 20_000;
const MAX_BYTES = 2_000_000;
const FETCH_SECONDS = 20;

export const tools: Anthropic.Tool[] = [
  {
    name: "search",
    description: "Search the library. Returns titles and addresses; read an address to get its text.",
    input_schema: { type: "object", properties: { query: { type: "string" } }, required: ["query"] },
  },
  {
    name: "read_url",
    description: "Read an address from a search, or a public web page (http or https), as plain text.",
    input_schema: { type: "object", properties: { url: { type: "string" } }, required: ["url"] },
  },
  {
    name: "write_report",
    description: "Save the finished report, in Markdown. Call it once, at the end.",
    input_schema: { type: "object", properties: { markdown: { type: "string" } }, required: ["markdown"] },
  },
];

/** Carries out one tool call. A failure is an answer for the model, which can try something else. */
export async function call(name: string, input: unknown): Promise<{ content: string; is_error: boolean }> {
  const field = (key: string) => String((input as Record<string, unknown> | null)?.[key] ?? "");
  try {
    switch (name) {
      case "search":
        return { content: search(field("query")), is_error: false };
      case "read_url":
        return { content: await readUrl(field("url")), is_error: false };
      case "write_report":
        return { content: await writeReport(field("markdown")), is_error: false };
      default:
        throw new Error(`there is no tool ${name}`);
    }
  } catch (error) {
    return { content: `error: ${(error as Error).message}`, is_error: true };
  }
}

function search(query: string): string {
  const words = query.toLowerCase().match(/[\p{L}\p{N}]{3,}/gu) ?? [];
  const hits = sources
    .map((source) => {
      const text = `${source.title} ${source.text}`.toLowerCase();
      return { source, score: words.filter((word) => text.includes(word)).length };
    })
    .filter((hit) => hit.score > 0)
    .sort((a, b) => b.score - a.score)
    .slice(0, 5);
  if (hits.length === 0) return "nothing found; try other words";
  return hits.map(({ source }) => `${source.title}\n  ${source.url}`).join("\n");
}

async function readUrl(url: string): Promise<string> {
  const note = sources.find((source) => source.url === url);
  if (note) return `${note.title}\n\n${note.text}`;
  if (!/^https?:\/\//.test(url)) throw new Error(`${url} is neither in the library nor a web address`);
  const response = await fetch(url, { signal: AbortSignal.timeout(FETCH_SECONDS * 1000) });
  if (!response.ok || !response.body) throw new Error(`${url} answered ${response.status}`);
  const decoder = new TextDecoder();
  let page = "";
  for await (const chunk of response.body) {
    page += decoder.decode(chunk as Uint8Array, { stream: true });
    if (page.length > MAX_BYTES) break;
  }
  return plain(page).slice(0, MAX_TEXT);
}

function plain(html: string): string {
  return html
    .replace(/<(script|style|noscript)\b[\s\S]*?<\/\1>/gi, " ")
    .replace(/<[^>]+>/g, " ")
    .replace(/&nbsp;/g, " ")
    .replace(/&lt;/g, "<")
    .replace(/&gt;/g, ">")
    .replace(/&amp;/g, "&")
    .replace(/\s+/g, " ")
    .trim();
}

async function writeReport(markdown: string): Promise<string> {
  if (!markdown.trim()) throw new Error("the report is empty");
  // What lies in /files/session is kept by the platform after the run.
  const folder = existsSync("/files/session") ? "/files/session" : ".";
  const path = join(folder, "report.md");
  await writeFile(path, markdown);
  return `saved ${path}`;
}
