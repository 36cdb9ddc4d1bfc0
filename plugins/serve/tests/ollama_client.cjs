// Ask a server by Ollama's JavaScript client, and print what it returns.
const { Ollama } = require("ollama");

async function main() {
  const client = new Ollama({ host: process.argv[2] });
  const gap = await client.generate({ model: "student", prompt: "def f(", suffix: "):" });
  let streamed = "";
  for await (const part of await client.generate({ model: "student", prompt: "x", raw: true, stream: true })) {
    streamed += part.response;
  }
  let chat = "", reason = "";
  const messages = [{ role: "user", content: "area" }];
  for await (const part of await client.chat({ model: "student", messages, stream: true })) {
    chat += part.message.content;
    reason = part.done_reason;
  }
  const models = (await client.list()).models.map((model) => model.name);
  await client.show({ model: "student" });
  await client.ps();
  const refused = await client.generate({ model: "gpt-9", prompt: "x" }).catch((error) => error);
  console.log(JSON.stringify({
    gap: gap.response, streamed, chat, reason, models, status: refused.status_code, error: refused.error,
  }));
}

main().catch((error) => { console.error(error); process.exit(1); });
