// The runtime as the page sees it: a worker that is asked one thing after another, and can be stopped.

export class Runtime {
  constructor(onState) {
    this.onState = onState;
    this.ready = false;
    this.waiting = new Map(); // id -> resolve
    this.ids = 0;
    this.renew();
  }

  renew() {
    this.started = new Promise((resolve) => { this.begin = resolve; });
  }

  // Load Python, the package and the model. Resolves when they are ready, or have failed.
  start() {
    this.onState({ state: "loading", text: "Loading Python and the model.", share: 0 });
    return new Promise((resolve) => {
      this.worker = new Worker("worker.js", { type: "module" });
      this.worker.onerror = (event) => this.fail(event.message || "the worker cannot be started", resolve);
      this.worker.onmessage = ({ data }) => {
        if (data.progress) this.onState({ state: "loading", ...progress(data.progress) });
        else if (data.failed) this.fail(data.failed, resolve);
        else if (data.ready) {
          this.ready = true;
          this.onState({ state: "ready", text: "Ready: Python and the model run in this page." });
          this.begin();
          resolve();
        } else {
          this.waiting.get(data.id)?.(data);
          this.waiting.delete(data.id);
        }
      };
    });
  }

  fail(message, resolve) {
    this.worker.terminate();
    this.onState({ state: "failed", text: `Python cannot be loaded: ${message}` });
    resolve();
  }

  // Call a method of the session, once it is there: {result, seconds}.
  async ask(method, ...args) {
    await this.started;
    const id = (this.ids += 1);
    return new Promise((resolve) => {
      this.waiting.set(id, resolve);
      this.worker.postMessage({ id, method, args });
    });
  }

  // Open a clip, and remember it for a new worker.
  open({ method, args }, want = this.ask.bind(this)) {
    this.clip = { method, args };
    return want(method, ...args);
  }

  // End what is running: the worker is replaced, and the clip opened anew.
  async stop() {
    this.worker.terminate();
    this.ready = false;
    for (const resolve of this.waiting.values()) resolve({ result: { error: "Stopped.", stopped: true }, seconds: 0 });
    this.waiting.clear();
    this.renew();
    await this.start();
    if (this.clip) {
      await this.open(this.clip);
      await this.ask("look");
      await this.ask("classify");
    }
  }
}

function progress({ text, share, loaded, total }) {
  const megabytes = (bytes) => (bytes / 1e6).toFixed(0);
  if (text !== "Loading") return { text: `${text} …`, share };
  return { text: `Loading Python and the model: ${megabytes(loaded)} of ${megabytes(total)} MB. Look at the examples meanwhile.`, share };
}
