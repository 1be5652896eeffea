// What the agent can do: read, write and list files of its folder, and run shell commands there.

import { spawn } from "node:child_process";
import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { dirname, relative, resolve, sep } from "node:path";

const ROOT = process.cwd();
const MAX_OUTPUT = 20_000;
const COMMAND_SECONDS = 60;

export const tools = [
  {
    name: "read_file",
    description: "Read a text file of the project.",
    input_schema: { type: "object", properties: { path: { type: "string" } }, required: ["path"] },
  },
  {
    name: "write_file",
    description: "Create a text file or replace it; folders are made as needed.",
    input_schema: {
      type: "object",
      properties: { path: { type: "string" }, content: { type: "string" } },
      required: ["path", "content"],
    },
  },
  {
    name: "list_files",
    description: "List a folder of the project; folders end with a slash.",
    input_schema: { type: "object", properties: { path: { type: "string", description: "default: the project's root" } } },
  },
  {
    name: "bash",
    description: `Run a shell command in the project's root; it may take ${COMMAND_SECONDS} seconds.`,
    input_schema: { type: "object", properties: { command: { type: "string" } }, required: ["command"] },
  },
];

const actions = {
  read_file: async ({ path }) => cut(await readFile(inside(path), "utf8")),
  write_file: async ({ path, content }) => {
    const full = inside(path);
    await mkdir(dirname(full), { recursive: true });
    await writeFile(full, content);
    return `wrote ${Buffer.byteLength(content)} bytes to ${relative(ROOT, full)}`;
  },
  list_files: async ({ path = "." }) => {
    const entries = await readdir(inside(path), { withFileTypes: true });
    return cut(entries.map((e) => e.name + (e.isDirectory() ? "/" : "")).sort().join("\n")) || "(empty)";
  },
  bash: ({ command }) => run(command),
};

/** Carries out one tool call. A failure is an answer for the model, which can try something else. */
export async function call(name, input) {
  try {
    if (!Object.hasOwn(actions, name)) throw new Error(`there is no tool ${name}`);
    return { content: await actions[name](input ?? {}), isError: false };
  } catch (error) {
    return { content: `error: ${error.message}`, isError: true };
  }
}

function inside(path) {
  const full = resolve(ROOT, String(path));
  if (full !== ROOT && !full.startsWith(ROOT + sep)) throw new Error(`${path} lies outside of the project`);
  return full;
}

function cut(text) {
  return text.length > MAX_OUTPUT ? `${text.slice(0, MAX_OUTPUT)}\n… (${text.length - MAX_OUTPUT} characters more)` : text;
}

function run(command) {
  return new Promise((done, fail) => {
    const child = spawn("/bin/sh", ["-c", String(command)], { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"], detached: true });
    let output = "";
    const collect = (data) => {
      if (output.length <= MAX_OUTPUT) output += data;
    };
    child.stdout.setEncoding("utf8").on("data", collect);
    child.stderr.setEncoding("utf8").on("data", collect);
    const timer = setTimeout(() => {
      output += `\n(stopped after ${COMMAND_SECONDS} s)`;
      try {
        // The whole group, so that nothing the shell started stays behind.
        process.kill(-child.pid, "SIGKILL");
      } catch {
        // It ended just now.
      }
    }, COMMAND_SECONDS * 1000);
    child.on("error", fail);
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      done(cut(`${output.trimEnd()}\n(exit ${signal ?? code})`.trimStart()));
    });
  });
}
