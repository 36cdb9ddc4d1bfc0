// Measures the graphs of this folder: sends tokens of texts and logits of windows to the server that opened this page.
import { Student, chooseBackend, openTokenizer, readJson } from "./engine.js";

async function send(path, body) {
  const answer = await fetch(path, { method: "POST", body });
  if (!answer.ok) throw new Error(`${path}: status ${answer.status}`);
}

async function measure() {
  const settings = await readJson("./student.json");
  const job = await readJson("./measurement.json");
  const tokenizer = await openTokenizer();
  const encoded = job.texts.map((text) => tokenizer.encode(text, { add_special_tokens: false }).ids);
  await send("/measured/tokens", JSON.stringify(encoded));
  for (const [dtype, backend] of job.cases) {
    if (backend === "webgpu" && (await chooseBackend(dtype)) !== "webgpu") continue;
    const student = await Student.open(settings, dtype, backend);
    let first = 0, later = 0, steps = 0;
    const rows = [];
    for (const window of job.windows) {
      const prefill = window.length - job.steps[backend];
      student.forget();
      let begun = performance.now();
      rows.push(...(await student.read(window.slice(0, prefill), true)));
      first = Math.max(first, performance.now() - begun);
      begun = performance.now();
      for (const id of window.slice(prefill)) rows.push(...(await student.read([id])));
      later += performance.now() - begun;
      steps += window.length - prefill;
      await send("/measured/window", "");
    }
    await send(`/measured/logits?${new URLSearchParams({ dtype, backend, first, later, steps })}`, new Blob(rows));
    await student.session.release();
  }
}

measure().then(
  () => send("/measured/end", ""),
  (error) => send("/measured/error", String(error?.stack ?? error)),
);
