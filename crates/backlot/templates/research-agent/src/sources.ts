// A small library of notes that stands in for a web search. Put your own search behind `search` in tools.ts.

export interface Source {
  url: string;
  title: string;
  text: string;
}

export const sources: Source[] = [
  {
    url: "notes://isolation/namespaces",
    title: "Isolation with Linux namespaces",
    text:
      "Containers isolate processes with kernel namespaces (mount, pid, network, user, ipc, uts) and limit them with control groups. " +
      "They start in milliseconds and share the host's kernel, so a kernel bug can break the isolation. A seccomp filter reduces the system calls that " +
      "a program can reach, and user namespaces map the program's root to an unprivileged user of the host.",
  },
  {
    url: "notes://isolation/microvm",
    title: "Isolation with microVMs",
    text:
      "A microVM runs its own kernel on hardware virtualisation with a minimal device model. A kernel bug inside stays inside. The price is memory for the " +
      "second kernel and a longer start, typically around a hundred milliseconds, which snapshots shorten. It needs /dev/kvm, which many cloud machines do not offer.",
  },
  {
    url: "notes://isolation/user-space-kernel",
    title: "Isolation with a user-space kernel",
    text:
      "A user-space kernel such as gVisor catches the program's system calls and carries them out itself, so that the host's kernel sees only a small set. " +
      "It needs no virtualisation hardware. Programs that make many system calls become slower, and some rare calls are not supported.",
  },
  {
    url: "notes://agents/tool-use",
    title: "How models use tools",
    text:
      "A model is given tool descriptions with JSON schemas. It answers with a call; the program carries the call out and sends the result back; this repeats until " +
      "the model answers in words. Errors are best given back as results, so that the model can try another way. Limits on turns and time keep costs in check.",
  },
  {
    url: "notes://agents/durable-runs",
    title: "Durable runs",
    text:
      "A durable run records each step's intent and result in a log before going on. After a crash the log is replayed: recorded results are taken from it and not computed " +
      "again. Steps without outside effects can be repeated; a step whose outcome is unknown and which may have had an effect needs a person's decision.",
  },
];
