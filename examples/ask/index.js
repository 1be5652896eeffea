// An agent in its smallest form: the prompt comes in on standard input, the answer goes out on standard output.
// The model is reached through the variables that Anthropic's SDKs read; the key is a token for this run alone.
import { stdin, stdout, env, exit } from 'node:process';

stdin.setEncoding('utf8');
let prompt = '';
for await (const piece of stdin) prompt += piece;
if (prompt.trim() === '') {
  console.error('The prompt is empty.');
  exit(1);
}

const response = await fetch(`${env.ANTHROPIC_BASE_URL}/v1/messages`, {
  method: 'POST',
  headers: {
    'content-type': 'application/json',
    'x-api-key': env.ANTHROPIC_API_KEY,
    'anthropic-version': '2023-06-01',
  },
  body: JSON.stringify({
    model: env.ANTHROPIC_MODEL,
    max_tokens: 300,
    messages: [{ role: 'user', content: prompt }],
  }),
});
const answer = await response.json();
if (!response.ok) {
  console.error(`The model answered ${response.status}: ${answer.error?.message ?? JSON.stringify(answer)}`);
  exit(1);
}
stdout.write(answer.content.filter((block) => block.type === 'text').map((block) => block.text).join('') + '\n');
