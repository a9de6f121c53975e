// The editor of a formula, and the verdict on the model that runs with it.

const $ = (id) => document.getElementById(id);

const IDEAS = {
  "pooling.attentional_pooler": [
    "Delete the line with ln_k: the verdict names the mistake.",
    "Multiply the queries by 4. Attention becomes sharper: does the brief clip’s caption survive?",
    "Pool the first half of the tokens alone: context[: len(context) // 2].",
    "Write print(context.shape) in the first line.",
  ],
  "ops.layer_norm": ["Forget the bias.", "Set eps to 0.1."],
  "ops.attention": ["Forget to divide by the square root of D.", "Forget the output projection."],
  "ops.softmax": ["Forget to subtract the maximum: is anything different?"],
  "ops.gelu": ["Use x / (1 + np.exp(-1.702 * x)), the quick approximation."],
  "vision.patchify": ["Swap rows and columns inside a patch."],
  "pooling.split_queries": ["Take the last query as the contrastive one."],
  "text.attention_mask": ["Undo the shift of the padding mask."],
  "decoder.causal_mask": ["Let every position see every other: return all True."],
};

const STORE = "minivideococa.code"; // what was typed, kept for the next visit

export function editor({ formulas, exercises }, runtime, turn) {
  const source = Object.fromEntries([...formulas, ...exercises].map(({ name, source }) => [name, source]));
  const edited = { ...source, ...stored(source) }; // what was typed stays when another formula is chosen
  const chosen = () => $("formula").value;
  $("formula").append(
    group("Formulas of the package", formulas.map(({ name }) => new Option(name, name))),
    group("Exercises: write them yourself", exercises.map(({ name }, i) => new Option(`${i + 1} ${name}`, name))),
  );
  const exercise = (name) => exercises.some((one) => one.name === name);

  const choose = () => {
    setCode(edited[chosen()]);
    $("ideas").hidden = !IDEAS[chosen()];
    $("ideas").querySelector("ul").replaceChildren(...(IDEAS[chosen()] ?? []).map((text) => element("li", text)));
  };
  const setCode = (text) => {
    $("code").value = text;
    $("code").rows = Math.min(22, Math.max(8, text.split("\n").length + 2));
    typed();
  };
  const typed = () => {
    edited[chosen()] = $("code").value;
    store(edited, source);
    $("lines").textContent = Array.from($("code").value.split("\n"), (_, i) => i + 1).join("\n");
    $("original").disabled = $("code").value === source[chosen()];
    scroll();
  };
  const scroll = () => { $("lines").scrollTop = $("code").scrollTop; };

  const run = async () => {
    if ($("run").disabled) return;
    const [name, code, clip] = [chosen(), $("code").value, turn()];
    const current = () => clip === turn() && $("run").disabled;
    busy(true);
    say("none", element("p", runtime.ready ? "Running the model with your code …" : "Waiting for Python …", "note"));
    try {
      if (exercise(name)) {
        const functions = Object.fromEntries(exercises.map((one) => [one.name, edited[one.name]]));
        const { result } = await runtime.ask("check", name, JSON.stringify(functions));
        if (current() && !result.stopped) showResult(result);
        return;
      }
      const { result: said } = await runtime.ask("edit", name, code);
      if (!current() || said.stopped) return;
      if (said.error) {
        say("error", element("h3", "It does not run"), element("p", said.error), ...printed(said));
        return;
      }
      say("none", ...comparison(said), element("p", "Comparing every tensor …", "note"));
      const { result: verdict } = await runtime.ask("verdict", name, code);
      if (!current() || verdict.stopped) return;
      showVerdict(said, verdict);
    } finally {
      if (clip === turn()) busy(false);
    }
  };

  const stop = async () => {
    say("none", element("p", "Stopped. Python starts anew; your code is still here.", "note"));
    busy(false);
    await runtime.stop();
  };

  $("formula").addEventListener("change", choose);
  $("code").addEventListener("input", typed);
  $("code").addEventListener("scroll", scroll);
  $("code").addEventListener("keydown", (event) => keys(event, run));
  $("original").addEventListener("click", () => setCode(source[chosen()]));
  $("run").addEventListener("click", run);
  $("stop").addEventListener("click", stop);
  document.addEventListener("clip", () => {
    busy(false);
    say("none", element("p", "The verdict will stand here.", "note"));
  });
  choose();
}

function keys(event, run) {
  if (event.key !== "Enter") return; // Tab moves on, so that the keyboard is not caught here
  if (event.ctrlKey || event.metaKey) {
    event.preventDefault();
    run();
    return;
  }
  const area = event.target; // a new line begins as deep as the last one
  const before = area.value.slice(0, area.selectionStart).split("\n").pop();
  const indent = before.match(/^ */)[0] + (before.trimEnd().endsWith(":") ? "    " : "");
  event.preventDefault();
  area.setRangeText(`\n${indent}`, area.selectionStart, area.selectionEnd, "end");
  area.dispatchEvent(new Event("input"));
}

// The verdict

function showVerdict(said, verdict) {
  if (verdict.error) {
    say("error", element("h3", "It cannot be compared"), ...comparison(said), element("p", verdict.error));
    return;
  }
  const title = verdict.right ? "Right: the model is the same" : "The model is not the same";
  const path = element("ul", "", "path");
  path.append(...verdict.rows.map(([name, status]) => {
    const li = element("li", name);
    li.dataset.status = status;
    li.title = status;
    return li;
  }));
  const details = document.createElement("details");
  details.append(element("summary", "Every tensor, in the order of the forward pass"), path);
  say(verdict.right ? "right" : "wrong", element("h3", title), ...comparison(said),
    ...verdict.sentences.map((sentence) => element("p", sentence)), details);
}

// The result of an exercise, as `minivideococa check` tells it.
function showResult({ error, status, lines, hint, printed: text }) {
  if (error) {
    say("error", element("h3", "It does not run"), element("p", error));
    return;
  }
  const state = { right: "right", wrong: "wrong" }[status] ?? "none";
  say(state, element("h3", status[0].toUpperCase() + status.slice(1)),
    ...lines.map((line) => element("p", line, /^(Expected|Came): /.test(line) ? "numbers" : "")),
    ...(hint ? [element("p", `Hint: ${hint}.`.replace("..", "."))] : []),
    ...(status === "not written yet" ? [element("p", "Write the body of the function in place of its last line.")] : []),
    ...printed({ printed: text }));
}

function comparison({ caption, label, shares, original, printed: text }) {
  const list = document.createElement("dl");
  const same = caption === original.caption;
  list.append(
    element("dt", "Caption"), element("dd", same ? `${caption} (as before)` : caption),
    ...(same ? [] : [element("dt", "before"), element("dd", original.caption)]),
    element("dt", "Label"), element("dd", label === original.label ? `${label} (as before)` : `${label}, before: ${original.label}`),
  );
  if (shares) {
    const drawn = bars("Attention over the frames", shares, original.shares);
    list.append(element("dt", "Looked at"), drawn, element("dt", ""), element("dd", "attention of each frame; lines: before", "note"));
  }
  return [list, ...printed({ printed: text })];
}

// The shares of the frames as bars, with a mark where each was before.
function bars(title, shares, before) {
  const dd = element("dd", "", "bars");
  const largest = Math.max(...shares, ...before);
  dd.append(...shares.map((share, t) => {
    const bar = element("span", "");
    bar.style.setProperty("--now", share / largest);
    bar.style.setProperty("--before", before[t] / largest);
    bar.title = `Frame ${t + 1}: ${(100 * share).toFixed(1)}%, before ${(100 * before[t]).toFixed(1)}%`;
    return bar;
  }));
  dd.setAttribute("role", "img");
  dd.setAttribute("aria-label", `${title}: ${shares.map((share) => `${(100 * share).toFixed(1)}%`).join(", ")}`);
  return dd;
}

function printed({ printed: text }) {
  return text ? [element("p", "Printed:", "note"), element("pre", text)] : [];
}

function group(label, options) {
  const made = document.createElement("optgroup");
  made.label = label;
  made.append(...options);
  return made;
}

function stored(source) {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE)) ?? {};
    return Object.fromEntries(Object.entries(kept).filter(([name]) => name in source));
  } catch {
    return {}; // no storage here, or nothing readable in it
  }
}

function store(edited, source) {
  try {
    const changed = Object.entries(edited).filter(([name, text]) => text !== source[name]);
    localStorage.setItem(STORE, JSON.stringify(Object.fromEntries(changed)));
  } catch {
    // no storage here
  }
}

function busy(running) {
  $("run").disabled = running;
  $("stop").hidden = !running;
}

function say(state, ...children) {
  $("verdict").dataset.state = state;
  $("verdict").replaceChildren(...children);
}

function element(name, text, style) {
  const made = document.createElement(name);
  made.textContent = text;
  if (style) made.className = style;
  return made;
}
