// Runs a student's graph: tokens in, logits out, with the cache between steps. Imported by the page and by its measurement.

const BACKENDS = { wasm: "./runtime/ort.wasm.min.mjs", webgpu: "./runtime/ort.webgpu.min.mjs" };
// Tokens read in one run of the graph. For 32 and more, onnxruntime-web 1.30.0 has another attention kernel on WebGPU, whose
// logits are wrong on SwiftShader.
const AT_ONCE = { wasm: Infinity, webgpu: 31 };

// Return "webgpu" if the browser offers an adapter that can run graphs of this type, else "wasm".
export async function chooseBackend(dtype) {
  const adapter = navigator.gpu ? await navigator.gpu.requestAdapter() : null;
  if (!adapter || (dtype === "q4f16" && !adapter.features.has("shader-f16"))) return "wasm";
  return "webgpu";
}

export async function readJson(file) {
  const answer = await fetch(file);
  if (!answer.ok) throw new Error(`${file}: status ${answer.status}; expected a file of the exported folder`);
  return answer.json();
}

export async function openTokenizer() {
  const { Tokenizer } = await import("./runtime/tokenizers.min.mjs");
  return new Tokenizer(await readJson("./tokenizer.json"), await readJson("./tokenizer_config.json"));
}

export class Student {
  // Open the graph of one type. `progress` is called with the downloaded share, 0 to 1.
  static async open(settings, dtype, backend, progress = () => {}) {
    const ort = await import(BACKENDS[backend]);
    ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
    ort.env.logLevel = "error";
    const graph = await download(settings.files[dtype].path, settings.files[dtype].bytes, progress);
    const onGpu = backend === "webgpu";
    const caches = {};
    for (let layer = 0; layer < settings.layers; layer++)
      for (const part of ["key", "value"]) caches[`present.${layer}.${part}`] = "gpu-buffer";
    const session = await ort.InferenceSession.create(graph, {
      executionProviders: onGpu ? ["webgpu", "wasm"] : ["wasm"],
      ...(onGpu ? { preferredOutputLocation: caches } : {}),
    });
    return new Student(ort, session, settings, dtype, AT_ONCE[backend]);
  }

  constructor(ort, session, settings, dtype, atOnce) {
    Object.assign(this, { ort, session, settings, atOnce });
    this.half = dtype === "q4f16";
    this.forget();
  }

  // Begin a new text: the cache is empty.
  forget() {
    for (const tensor of Object.values(this.cache ?? {})) tensor.dispose();
    const { layers, kvHeads, headSize } = this.settings;
    const kind = this.half ? "float16" : "float32";
    this.cache = {};
    this.length = 0;
    for (let layer = 0; layer < layers; layer++)
      for (const part of ["key", "value"]) {
        const nothing = this.half ? new Uint16Array(0) : new Float32Array(0);
        this.cache[`past_key_values.${layer}.${part}`] = new this.ort.Tensor(kind, nothing, [1, kvHeads, 0, headSize]);
      }
  }

  // Read tokens after those of the cache; return the logits of the last token, or of all, as a list of arrays.
  async read(ids, all = false) {
    let rows = [];
    for (let start = 0; start < ids.length; start += this.atOnce) {
      const logits = await this.step(ids.slice(start, start + this.atOnce), all ? 0 : 1);
      rows = all ? [...rows, logits] : [logits];
    }
    return rows;
  }

  // Run the graph once; return the logits of the last `keep` tokens (0: of all) in one array.
  async step(ids, keep) {
    const { Tensor } = this.ort;
    const total = this.length + ids.length;
    const output = await this.session.run({
      input_ids: new Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]),
      attention_mask: new Tensor("int64", new BigInt64Array(total).fill(1n), [1, total]),
      num_logits_to_keep: new Tensor("int64", BigInt64Array.of(BigInt(keep)), [1]),
      ...this.cache,
    });
    for (const name of Object.keys(this.cache)) {
      this.cache[name].dispose();
      this.cache[name] = output[name.replace("past_key_values", "present")];
    }
    this.length = total;
    const logits = output.logits.data.slice();
    output.logits.dispose();
    return logits;
  }
}

// Return a file's bytes. The size is known beforehand, since servers that compress do not send it.
async function download(path, bytes, progress) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: status ${answer.status}; expected a file of the exported folder`);
  const content = new Uint8Array(bytes);
  const reader = answer.body.getReader();
  let count = 0;
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    if (count + piece.value.length > bytes) throw new Error(`${path} is larger than ${bytes} bytes; export it again`);
    content.set(piece.value, count);
    progress((count += piece.value.length) / bytes);
  }
  if (count !== bytes) throw new Error(`${path} has ${count} of ${bytes} bytes; load the page again`);
  return content;
}

// Return the most likely token, or at a temperature above 0 a drawn one.
export function choose(logits, temperature) {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  if (!(temperature > 0)) return best;
  let total = 0;
  const weights = logits.map((logit) => Math.exp((logit - logits[best]) / temperature));
  for (const weight of weights) total += weight;
  let rest = Math.random() * total;
  for (let id = 0; id < weights.length; id++) if ((rest -= weights[id]) < 0) return id;
  return best;
}
