// The page: a clip, what the model says of it, and what it says with a changed formula (code.js).

import { editor } from "./code.js";
import { draw, opened } from "./frames.js";
import { Runtime } from "./runtime.js";

const $ = (id) => document.getElementById(id);
const runtime = new Runtime(showState);
const shown = { result: null };
const TITLES = { caption: "all caption queries", latent: "the latent" };
let turn = 0; // of the open clip; an answer that arrives for an earlier one is dropped
let examples;

async function main() {
  examples = await (await fetch("examples.json")).json();
  listClips(examples.clips);
  editor(examples, runtime, () => turn);
  $("file").addEventListener("change", () => $("file").files[0] && openFile($("file").files[0]));
  acceptDrops();
  $("question-form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask($("question").value, turn);
  });
  $("everything").addEventListener("toggle", showEverything);
  $("retry").addEventListener("click", () => runtime.start());
  const settings = await (await fetch("site.json")).json();
  $("package").textContent = `minivideococa ${settings.package}`;
  $("pyodide").textContent = settings.version;
  const first = examples.clips.find(({ clip }) => clip === "brief.gif") ?? examples.clips[0];
  $("clips").querySelector(`[value="${first.clip}"]`).checked = true;
  runtime.start();
  await openClip(first);
}

// State of the runtime

function showState({ state, text, share = 1 }) {
  $("status").dataset.state = state;
  $("progress").value = share;
  $("state").textContent = text;
  $("retry").hidden = state !== "failed";
}

// Clips

function listClips(clips) {
  for (const clip of clips) {
    const label = document.createElement("label");
    label.innerHTML = '<input type="radio" name="clip"><img alt=""><span></span>';
    label.querySelector("input").value = clip.clip;
    label.querySelector("img").src = `clips/${clip.clip}`;
    label.querySelector("span").textContent = clip.clip.replace(".gif", "");
    label.querySelector("input").setAttribute("aria-label", `${clip.clip}: ${clip.text}`);
    label.querySelector("input").addEventListener("change", () => openClip(clip));
    $("clips").append(label);
  }
}

async function openClip(clip) {
  const mine = begin(clip.question);
  if (!runtime.ready) {
    const name = clip.clip.replace(/\.gif$/, "");
    const result = await (await fetch(`examples/${name}.json`)).json();
    if (mine !== turn || runtime.ready) return;
    await show({ ...result, origin: "Computed when this page was built. It is computed anew once Python has been loaded." });
  }
  const bytes = await (await fetch(`clips/${clip.clip}`)).arrayBuffer();
  await compute({ method: "open_file", args: [clip.clip, bytes] }, clip.question, mine);
}

async function openFile(file) {
  const mine = begin("what shape is red?");
  $("clips").querySelector(":checked")?.toggleAttribute("checked", false);
  for (const input of $("clips").querySelectorAll("input")) input.checked = false;
  $("drop").classList.add("chosen");
  $("drop").querySelector("strong").textContent = file.name;
  try {
    await compute(await opened(file), $("question").value, mine);
  } catch (error) {
    fail(error.message, mine);
  }
}

function begin(question) {
  turn += 1;
  document.body.dataset.turn = turn;
  $("clip-error").hidden = true;
  $("drop").classList.remove("chosen");
  $("drop").querySelector("strong").textContent = "Your own";
  $("question").value = question;
  $("says").classList.add("busy");
  $("everything").open = false;
  document.dispatchEvent(new Event("clip"));
  return turn;
}

function fail(message, mine) {
  if (mine !== turn) return;
  $("says").classList.remove("busy");
  $("clip-error").textContent = message;
  $("clip-error").hidden = false;
}

// Ask the runtime for everything, and show each part as it arrives.
async function compute(open, question, mine) {
  let seconds = 0, result = {};
  const want = async (method, ...args) => {
    const reply = await runtime.ask(method, ...args);
    if (mine !== turn) return null;
    if (reply.result.error) {
      fail(reply.result.error, mine);
      return null;
    }
    seconds += reply.seconds;
    result = { ...result, ...reply.result };
    return reply.result;
  };
  if (!(await runtime.open(open, want))) return;
  if (!(await want("look"))) return;
  const origin = () => `Computed in this page in ${seconds.toFixed(1)} s.`;
  await show({ ...result, origin: origin() });
  if (!(await want("classify"))) return;
  showLabels(result);
  if (!(await want("answer", question))) return;
  if ($("question").value === question) showAnswer(result);
  $("origin").textContent = origin();
  $("says").dataset.latent = JSON.stringify(result.latent);
  $("says").dataset.done = mine;
}

function acceptDrops() {
  for (const type of ["dragenter", "dragover"]) {
    document.addEventListener(type, (event) => {
      event.preventDefault();
      $("drop").classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    const file = event.dataTransfer.files[0];
    if (file) openFile(file);
  });
}

// Results

async function show(result) {
  shown.result = result;
  $("caption").textContent = result.caption;
  $("origin").textContent = result.origin;
  await drawMap(listMaps(result.maps));
  if (result.labels) showLabels(result);
  if (result.answer) showAnswer(result);
  $("says").classList.remove("busy");
}

function listMaps(maps) {
  const keep = $("maps").querySelector(":checked")?.closest("label").textContent;
  $("maps").querySelectorAll("label").forEach((label) => label.remove());
  const words = maps.filter((map) => map.word);
  const choices = [
    ...words.map((map) => ({ map, title: map.name })),
    ...maps.filter((map) => !map.word).map((map) => ({ map, title: TITLES[map.name], aside: true })),
    { map: null, title: "no map", aside: true },
  ];
  const last = words.length - 1; // of a caption like "a photo of a red ring": the word that names the object
  const start = Math.max(choices.findIndex((choice) => choice.aside && choice.title === keep), 0) || last;
  choices.forEach(({ map, title, aside }, i) => {
    const label = document.createElement("label");
    label.innerHTML = '<input type="radio" name="map"><span></span>';
    label.className = aside ? "aside" : "word";
    label.querySelector("span").textContent = title;
    const input = label.querySelector("input");
    input.checked = i === start;
    input.addEventListener("change", () => drawMap(map));
    $("maps").append(label);
  });
  return choices[start].map;
}

async function drawMap(map) {
  await draw($("frames"), shown.result, map);
  const even = `Below each frame is its share; if all frames counted alike, each would have ${(100 / shown.result.frames).toFixed(1)}%.`;
  if (!map) {
    $("map-note").textContent = `The ${shown.result.frames} frames that the model saw: those on screen at the middle of as many equal parts of the clip.`;
  } else if (map.word) {
    $("map-note").textContent = `Bright: patches that “${map.name}” came from, by the pooler’s attention weighted by the word’s gradient. ${even}`;
  } else {
    const query = map.name === "latent" ? "the query that classification uses" : "the queries that captions are written from";
    $("map-note").textContent = `Bright: patches that ${query} attended to, averaged over heads. ${even}`;
  }
}

async function showEverything() {
  const details = $("everything");
  details.querySelector("iframe")?.remove();
  if (!details.open) return;
  const mine = turn;
  const { result } = await runtime.ask("page");
  if (mine !== turn || !details.open || !result.page) return;
  const frame = document.createElement("iframe");
  frame.title = "Explanation of the caption";
  frame.sandbox = "allow-scripts";
  frame.srcdoc = result.page;
  details.append(frame);
}

function showLabels({ labels, of }) {
  $("labels").replaceChildren(...labels.map(([name, probability]) => {
    const li = document.createElement("li");
    li.innerHTML = '<span></span><span class="share" aria-hidden="true"><i></i></span><span class="percent"></span>';
    li.querySelector("span").textContent = name;
    li.querySelector("i").style.width = `${100 * probability}%`;
    li.querySelector(".percent").textContent = `${(100 * probability).toFixed(1)}%`;
    return li;
  }));
  $("labels-note").textContent = `Zero-shot: the clip’s latent compared with those of ${of} labels.`;
}

async function ask(question, mine) {
  $("answer").textContent = runtime.ready ? "…" : "Waiting for Python …";
  const { result } = await runtime.ask("answer", question);
  if (mine !== turn) return;
  showAnswer(result.error ? { answer: "", notes: [result.error] } : result);
}

function showAnswer({ question, answer, notes }) {
  if (question) $("question").value = question;
  $("answer").textContent = answer;
  $("answer-note").textContent =
    notes.join(" ") || "From the checkpoint’s second part, which was tuned for questions about such shapes.";
}

main();
