// The page: loads the student, and completes the prompt as it is typed in.
import { Student, choose, chooseBackend, openTokenizer, readJson } from "./engine.js";

const at = (id) => document.getElementById(id);
const megabytes = (bytes) => (bytes >= 1e6 ? `${Math.round(bytes / 1e6)} MB` : `${Math.ceil(bytes / 1000)} kB`);
let settings, tokenizer, student, opened, stopped;

async function begin() {
  settings = await readJson("./student.json");
  document.title = settings.name;
  at("name").textContent = settings.name;
  at("about").textContent = settings.about;
  const asked = new URLSearchParams(location.search);
  for (const [dtype, file] of Object.entries(settings.files))
    at("dtype").add(new Option(`${dtype} (${megabytes(file.bytes)})`, dtype));
  if (settings.files[asked.get("dtype")]) at("dtype").value = asked.get("dtype");
  if (["wasm", "webgpu"].includes(asked.get("backend"))) at("backend").value = asked.get("backend");
  tokenizer = await openTokenizer();
  at("run").disabled = false;
  show("Ready. The model is loaded at the first run.");
}

async function open() {
  const dtype = at("dtype").value;
  const wanted = at("backend").value;
  const backend = wanted === "auto" ? await chooseBackend(dtype) : wanted;
  if (opened === `${dtype} ${backend}`) return;
  await student?.session.release();
  opened = student = undefined;
  const load = (way) =>
    Student.open(settings, dtype, way, (share) => show(`Loading ${dtype}: ${Math.round(100 * share)} %`));
  try {
    student = await load(backend);
    opened = `${dtype} ${backend}`;
  } catch (error) {
    if (wanted !== "auto" || backend === "wasm") throw error;
    console.warn(`webgpu failed (${error.message}); wasm is used instead`);
    student = await load("wasm");
    opened = `${dtype} wasm`;
  }
  at("ran").textContent = opened;
}

async function complete() {
  const prompt = at("prompt").value;
  const ids = [...settings.begin, ...tokenizer.encode(prompt, { add_special_tokens: false }).ids];
  if (!ids.length) return show("The prompt is empty: type the beginning of a program.", true);
  if (ids.length >= settings.context)
    return show(`The prompt has ${ids.length} tokens; expected fewer than ${settings.context}: shorten it.`, true);
  at("given").textContent = prompt;
  at("written").textContent = "";
  at("rate").textContent = at("first").textContent = "–";
  await open();
  student.forget();
  const written = [];
  const limit = Math.min(Number(at("limit").value), settings.context - ids.length);
  let begun = performance.now();
  let next = choose((await student.read(ids))[0], Number(at("temperature").value));
  at("first").textContent = `${Math.round(performance.now() - begun)} ms`;
  begun = performance.now();
  while (!settings.end.includes(next) && !stopped) {
    written.push(next);
    // a character may be of several tokens; until it is whole, it is decoded as U+FFFD
    const text = tokenizer.decode(written, { skip_special_tokens: true, clean_up_tokenization_spaces: false });
    at("written").textContent = text.replace(/\uFFFD+$/, "");
    if (written.length > 1)
      at("rate").textContent = `${((1000 * (written.length - 1)) / (performance.now() - begun)).toFixed(1)}`;
    show(`${written.length} of ${limit} tokens`);
    if (written.length >= limit) break;
    await new Promise((resume) => setTimeout(resume));
    next = choose((await student.read([next]))[0], Number(at("temperature").value));
  }
  show(`${written.length} tokens: ${stopped ? "stopped" : written.length >= limit ? "the limit" : "the text ended"}.`);
}

function show(text, failed = false) {
  at("status").textContent = text;
  at("status").classList.toggle("failed", failed);
}

async function run() {
  if (at("run").disabled) return;
  stopped = false;
  at("run").disabled = true;
  at("stop").disabled = false;
  try {
    await complete();
  } catch (error) {
    show(`${error.message ?? error}`, true);
  }
  at("run").disabled = false;
  at("stop").disabled = true;
}

at("run").onclick = run;
at("stop").onclick = () => (stopped = true);
at("prompt").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
};
begin().catch((error) => show(`${error.message ?? error}`, true));
