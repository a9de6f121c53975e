// The worker: Python, the package's own wheel, and session.py, which answers the page.
// Every file is read once, compared with its SHA-256, and only then used.

const fetchAnew = self.fetch.bind(self);
const held = new Map(); // address -> checked bytes
const TYPES = { wasm: "application/wasm", mjs: "text/javascript", whl: "application/zip", zip: "application/zip" };
let loaded = 0, total = 0, python, session, call;

self.fetch = (resource, options) => { // Pyodide fetches its parts itself: give it the checked bytes
  const address = String(resource.url ?? resource);
  if (!held.has(address)) return fetchAnew(resource, options);
  const type = TYPES[address.split(".").pop()] ?? "application/octet-stream";
  return Promise.resolve(new Response(held.get(address), { headers: { "Content-Type": type } }));
};

async function start() {
  const settings = await (await fetchAnew("site.json")).json();
  const base = new URL(settings.base, self.location).href;
  const runtime = Object.entries({ ...settings.core, ...settings.packages });
  const [[wheel, wheelEntry]] = Object.entries(settings.wheel);
  total = [...runtime.map(([, entry]) => entry[0]), wheelEntry[0]].reduce((a, b) => a + b);
  await Promise.all([
    ...runtime.map(([name, entry]) => hold(base + name, entry)),
    hold(new URL(wheel, self.location).href, wheelEntry),
  ]);
  tell("Starting Python", 1);
  const { loadPyodide } = await importHeld(`${base}pyodide.mjs`);
  const createPyodideModule = (await importHeld(`${base}pyodide.asm.mjs`)).default;
  python = await loadPyodide({
    indexURL: base, packageBaseUrl: base, lockFileContents: settings.lock, createPyodideModule, stdout() {}, stderr() {},
  });
  const problems = [];
  const said = { messageCallback() {}, errorCallback: (text) => problems.push(text) };
  await python.loadPackage(Object.keys(settings.lock.packages), said);
  if (problems.length) throw new Error(problems[0]);
  python.unpackArchive(held.get(new URL(wheel, self.location).href), "wheel");
  held.clear();
  tell("Loading the model", 1);
  python.FS.writeFile("session.py", await (await fetchAnew("session.py")).text());
  const module = python.pyimport("session");
  [session, call] = [module.Session(), module.call];
  self.postMessage({ ready: true });
}

// Read a file; if it is not the expected one, once more, and past the browser's cache, which may hold a damaged one.
async function hold(address, entry) {
  try {
    await read(address, entry, "default");
  } catch {
    await read(address, entry, "reload");
  }
}

async function read(address, [size, sha256], cache) {
  const options = self.isSecureContext ? { cache } : { cache, integrity: integrity(sha256) };
  const response = await fetchAnew(address, options);
  if (!response.ok) throw new Error(`${address}: ${response.status} ${response.statusText}`);
  const bytes = new Uint8Array(size);
  let end = 0, fits = true;
  for (let reader = response.body.getReader(), part; !(part = await reader.read()).done; ) {
    fits = end + part.value.length <= size;
    if (!fits) break;
    bytes.set(part.value, end);
    end += part.value.length;
    loaded += part.value.length;
    tell("Loading", loaded / total);
  }
  // without a secure context there is no crypto.subtle: there the browser itself has checked the integrity
  if (!fits || (self.isSecureContext && hex(await crypto.subtle.digest("SHA-256", bytes)) !== sha256)) {
    loaded -= end;
    throw new Error(`${address}: not the expected file`);
  }
  held.set(address, bytes);
}

const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
const integrity = (sha256) => "sha256-" + btoa(String.fromCharCode(...sha256.match(/../g).map((x) => parseInt(x, 16))));

async function importHeld(address) {
  const url = URL.createObjectURL(new Blob([held.get(address)], { type: "text/javascript" }));
  try {
    return await import(url);
  } finally {
    URL.revokeObjectURL(url);
  }
}

function tell(text, share) {
  self.postMessage({ progress: { text, share, loaded, total } });
}

function run(method, args) {
  if (method === "open_file") { // a name and its bytes: put the file where Python can read it
    const name = args[0].replace(/[^\w.-]/g, "_").slice(-60);
    python.FS.writeFile(name, new Uint8Array(args[1]));
    args = [name];
  }
  return call(session, method, ...args.map((x) => (x instanceof ArrayBuffer ? python.toPy(new Uint8Array(x)) : x)));
}

self.onmessage = ({ data: { id, method, args } }) => {
  try {
    const began = performance.now();
    const result = JSON.parse(run(method, args));
    self.postMessage({ id, result, seconds: (performance.now() - began) / 1000 });
  } catch (error) { // an error of Python that is no message: its last line
    self.postMessage({ id, result: { error: reason(error) } });
  }
};

// Return the line of a message, or of a traceback, that says what went wrong.
function reason(error) {
  const lines = String(error.message ?? error).trim().split("\n");
  return lines.findLast((line) => /^[\w.]*(Error|Exception|Interrupt)\b/.test(line)) ?? lines.pop();
}

start().catch((error) => self.postMessage({ failed: reason(error) }));
