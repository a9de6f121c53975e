"use strict";

// The page's data: sections of panels, one panel per explanation. `_panel` in page.py names the fields.
const data = JSON.parse(document.getElementById("data").textContent);
const MEAN = -1; // in place of the number of a layer or head: the average over all
const EXACT_SIDE = 96; // pixels: smaller frames are shown pixel by pixel
const LATENT = -1; // in place of the number of a caption token: the latent's query


// Arrays: values in one row, and their shape, as in NumPy

/** Turn packed bytes into an array: value = byte / 255 * the scale of its map. */
function unpack({ shape, scales, bytes }) {
  const values = Float32Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
  const size = values.length / scales.length;
  return { shape, values: values.map((byte, i) => (byte / 255) * scales[Math.floor(i / size)]) };
}

/** Return the part of an array at indices of its first axes: at(a, 2, 1) is a[2, 1]. */
function at(array, ...indices) {
  let size = array.values.length;
  let start = 0;
  indices.forEach((index, axis) => {
    size /= array.shape[axis];
    start += index * size;
  });
  return array.values.subarray(start, start + size);
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

/** Return the average of several vectors of one length. */
function average(vectors) {
  const total = new Float32Array(vectors[0].length);
  for (const vector of vectors) vector.forEach((value, i) => { total[i] += value / vectors.length; });
  return total;
}

/** Return [index], or all indices of an axis of this length for MEAN. */
const selected = (index, length) => (index === MEAN ? [...Array(length).keys()] : [index]);


// Maps: what a panel shows, from its three arrays of attention

/** Return how much the word reads each caption token [Q'], in the chosen layer and head of the decoder. */
function reading(panel, word, layer, head) {
  const [layers, heads] = panel.cross.shape;
  return average(selected(layer, layers).flatMap((l) =>
    selected(head, heads).map((h) => at(panel.cross, l, h, word))));
}

/** Return how much a query of the pooler reads each frame's tokens [T * N], in the chosen head. */
function pooling(panel, query, head) {
  return average(selected(head, panel.pooler.shape[0]).map((h) =>
    query === LATENT ? at(panel.latent, h) : at(panel.pooler, h, query)));
}

/** Compose the two: the sum over caption tokens q of reading[q] * pooling(q), [T * N]. */
function composed(panel, word, layer, head, poolerHead) {
  const tokens = new Float32Array(panel.pooler.values.length / panel.pooler.shape[0] / panel.pooler.shape[1]);
  reading(panel, word, layer, head).forEach((weight, q) => {
    pooling(panel, q, poolerHead).forEach((value, i) => { tokens[i] += weight * value; });
  });
  return tokens;
}

/** Split weights of tokens [T * N]: those of patches, each frame's share, and the class tokens' share. */
function splitTokens(panel, tokens) {
  const N = tokens.length / panel.T; // the class token, then the patches
  const patches = tokens.filter((_, i) => i % N !== 0);
  const total = sum(tokens);
  const frames = [...Array(panel.T).keys()].map((t) => sum(tokens.subarray(t * N, (t + 1) * N)) / total);
  return { patches, frames, classShare: 1 - sum(patches) / total };
}

/** Return the map that a panel shows: patches [T * rows * cols], frames [T], the class tokens' share. */
function shownMap(panel) {
  const { source, word, layer, decoderHead, poolerHead, query } = panel;
  if (source === "decoder") return splitTokens(panel, composed(panel, word, layer, decoderHead, poolerHead));
  if (source === "pooler") return splitTokens(panel, pooling(panel, query, poolerHead));
  const patches = at(panel.maps, word);
  return { patches, frames: panel.frameWeights[word], classShare: Math.max(0, 1 - sum(patches)) };
}

/** Return the first word to show: the last one before the end, which is most often a noun. */
const firstShown = (panel) => Math.max(0, panel.words.findLastIndex((word) => word !== ""));


// Drawing

// Colours of the map, from no weight to the largest: red, green, blue, opacity. page.css repeats them
const HEAT = [
  [20, 16, 36, 0.5], [92, 28, 110, 0.5], [206, 64, 84, 0.6], [250, 150, 50, 0.7], [255, 236, 140, 0.8],
];

/** Return the colour of a weight between 0 and 1, interpolated in `HEAT`. */
function heat(weight) {
  const position = weight * (HEAT.length - 1);
  const below = Math.min(HEAT.length - 2, Math.floor(position));
  const mix = (from, i) => from + (position - below) * (HEAT[below + 1][i] - from);
  const [red, green, blue, opacity] = HEAT[below].map(mix);
  return `rgb(${red} ${green} ${blue} / ${opacity})`;
}

/**
 * Add to a map what it is drawn with: the weight of full colour, and whether most patches weigh at least half
 * as much as the heaviest. Such a map is flat: it is drawn in the middle of the scale and without outlines.
 */
function scaled(map) {
  const peak = Math.max(...map.patches);
  const middle = [...map.patches].sort((a, b) => a - b)[Math.floor(map.patches.length / 2)];
  return { ...map, peak, flat: middle >= peak / 2, full: Math.max(peak, 2 * middle) || 1 };
}

/** Draw a frame, the colours of its map, and an outline of patches of at least half the largest weight. */
function drawFrame(canvas, panel, t, map) {
  const { side } = panel;
  const scale = Math.ceil(canvas.dataset.pixels / side);
  canvas.width = canvas.height = side * scale;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = side > EXACT_SIDE; // the pixels of small frames stay visible
  context.drawImage(images[panel.frames[t]], 0, 0, canvas.width, canvas.height);
  if (!showsMaps) return;
  const patches = map.patches.subarray(t * panel.rows * panel.cols, (t + 1) * panel.rows * panel.cols);
  const cell = Math.floor(side / panel.cols) * scale; // a side that the patch size does not divide is cut
  const edge = canvas.width;
  forEachPatch(panel, (row, col, i) => {
    context.fillStyle = heat(patches[i] / map.full);
    const width = col + 1 === panel.cols ? edge - col * cell : cell;
    const height = row + 1 === panel.rows ? edge - row * cell : cell;
    context.fillRect(col * cell, row * cell, width, height);
  });
  if (map.flat) return;
  const outline = outlinePath(panel, cell, (row, col) => row >= 0 && row < panel.rows && col >= 0
    && col < panel.cols && patches[row * panel.cols + col] >= map.peak / 2);
  for (const [width, colour] of [[canvas.width / 64, "#10121a"], [canvas.width / 128, "#ffc247"]]) {
    context.lineWidth = width;
    context.lineCap = "square";
    context.strokeStyle = colour;
    context.stroke(outline);
  }
}

function forEachPatch({ rows, cols }, visit) {
  for (let i = 0; i < rows * cols; i += 1) visit(Math.floor(i / cols), i % cols, i);
}

/** Return the border between patches that are inside and those that are not. */
function outlinePath(panel, cell, inside) {
  const path = new Path2D();
  const line = (x0, y0, x1, y1) => {
    path.moveTo(x0 * cell, y0 * cell);
    path.lineTo(x1 * cell, y1 * cell);
  };
  forEachPatch(panel, (row, col) => {
    if (!inside(row, col)) return;
    if (!inside(row - 1, col)) line(col, row, col + 1, row);
    if (!inside(row + 1, col)) line(col, row + 1, col + 1, row + 1);
    if (!inside(row, col - 1)) line(col, row, col, row + 1);
    if (!inside(row, col + 1)) line(col + 1, row, col + 1, row + 1);
  });
  return path;
}


// Text

/** Write a share as a percentage: "12%", "3.4%", "<0.1%". */
function percent(share) {
  if (share > 0 && share < 0.0005) return "<0.1%";
  return `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)}%`;
}

const shownWord = (word) => word || "end";

/** Return "frame 3 of 8, at 0.45 s". */
function frameName(panel, t) {
  const time = panel.times ? `, at ${panel.times[t].toFixed(2)} s` : "";
  return `frame ${t + 1} of ${panel.T}${time}`;
}

const isLong = (panel) => panel.T > 16; // many frames: they are shown smaller

/** Return "3 · 0.5 s", or without times or room "3". */
const shortName = (panel, t) =>
  (panel.times && !isLong(panel) ? `${t + 1} · ${panel.times[t].toFixed(2)} s` : `${t + 1}`);

/** Say in words what the panel shows, for the announcement of screen readers. */
function summary(panel) {
  const { frames } = panel.map;
  const most = Math.max(...frames);
  const first = frames.indexOf(most);
  return `${shownWord(panel.words[panel.word])}, probability ${percent(panel.probabilities[panel.word])}. `
    + `Most weight on ${frameName(panel, first)}: ${percent(most)}.`;
}

// The maps of words, Explanation.maps, by the formula that made them: see relevance.py
const FORMULAS = {
  gradient: "The pooler’s attention to each patch, counted as far as more of it would make the word more "
    + "probable: attention times the positive part of the word’s gradient (Chefer et al., arXiv 2103.15679).",
  attention: "The decoder’s attention to the caption tokens times the pooler’s attention to the patches, "
    + "averaged over layers and heads (attention rollout, Abnar and Zuidema, arXiv 2005.00928).",
};

/** Say which layers and heads the maps are of. */
function formula(panel) {
  if (panel.source === "word") return FORMULAS[panel.formula];
  const averaged = panel.averaged || panel.poolerHead === MEAN;
  const poolerHead = averaged ? "averaged over its heads" : `head ${panel.poolerHead}`;
  if (panel.source === "pooler" && panel.query === LATENT) {
    return `The attention of the pooler’s contrastive query, ${poolerHead}. It gives the latent, which is `
      + "compared with texts. It is the same for every word.";
  }
  const [kept, all] = [panel.queries.length, panel.allQueries];
  const fewer = kept === all ? ""
    : ` Of ${all} caption tokens, the ${kept} of most weight are kept in this file.`;
  if (panel.source === "pooler") {
    const token = panel.queries[panel.query];
    return `The attention of the pooler’s query for caption token ${token}, ${poolerHead}. It is the same `
      + `for every word.${fewer}`;
  }
  const layer = panel.layer === MEAN ? "averaged over layers" : `decoder.block.${panel.layer}.cross`;
  const head = panel.decoderHead === MEAN ? "averaged over heads" : `head ${panel.decoderHead}`;
  return `The word’s cross-attention to each caption token (${layer}, ${head}) times the pooler’s attention `
    + `of that token’s query to the patches (${poolerHead}), summed over the caption tokens.${fewer}`;
}

// What is known of the arrays on the path: a pattern of names, the axes, what the step does
const STEPS = [
  [/^frames$/, "T, H, W, 3", "frames, sampled by time"],
  [/^pixels$/, "T, 3, S, S", "resized, cropped, normalized"],
  [/^vision\.embed$/, "T, N, W", "a class token and patches, with positions"],
  [/^vision\.block/, "T, N, W", "frame tokens: the image encoder, each frame alone"],
  [/^pool\.flat$/, "T·N, W", "the tokens of all frames as one sequence"],
  [/^pool\.attended$/, "Q, E", "learned queries attend to the sequence"],
  [/^pool\.tokens$/, "Q′, E", "caption tokens"],
  [/^pool\.latent$/, "E", "latent, compared with texts"],
  [/^factorized/, "T, E", "layers across the frames"],
  [/^ids$/, "L", "ids of the text so far"],
  [/^text\.(embed|block)/, "L + 1, E", "unimodal text decoder"],
  [/^text\.tokens$/, "L, E", "token features"],
  [/^text\.latent$/, "E", "latent of the text so far"],
  [/^decoder\.block/, "L, E", "multimodal decoder"],
  [/^logits$/, "L, V", "a score for every next token"],
];


// Elements

/** Make an element: element("li", { className: "bar" }, child, "text"). */
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Copy a <template> of page.html. */
const copyOf = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

/** Write text into an element; without text, remove the element. */
function setText(node, text) {
  node.textContent = text;
  if (!text) node.remove();
}

/** Make one of a row of radio buttons: of them all, Tab reaches the checked one. */
function radio(className, label, pick, ...children) {
  const button = element("button", { type: "button", className, onclick: pick }, ...children);
  button.setAttribute("role", "radio");
  if (label) button.setAttribute("aria-label", label);
  return button;
}

/** Check one of the radio buttons of a group. */
function check(group, index) {
  [...group.children].forEach((button, i) => {
    button.setAttribute("aria-checked", i === index);
    button.tabIndex = i === index ? 0 : -1;
  });
}

/** Let arrow keys, Home and End move in a group of radio buttons. `others` maps more keys to functions. */
function addKeys(group, others = {}) {
  group.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const buttons = [...group.children];
    const current = buttons.indexOf(document.activeElement);
    const targets = {
      ArrowLeft: current - 1, ArrowUp: current - 1, ArrowRight: current + 1, ArrowDown: current + 1,
      Home: 0, End: buttons.length - 1,
    };
    if (event.key in others) others[event.key]();
    else if (event.key in targets) {
      const button = buttons[(targets[event.key] + buttons.length) % buttons.length];
      button.focus();
      button.click();
    } else return;
    event.preventDefault();
  });
}

/** Make a labelled <select>: options are [value, text]. */
function choice(label, options, value, pick) {
  const items = options.map(([number, text]) =>
    element("option", { value: number, selected: number === value }, text));
  const select = element("select", { onchange: () => pick(Number(select.value)) }, ...items);
  return element("label", {}, element("span", {}, label), select);
}

/** Return the options of a choice among layers or heads. */
const numbered = (name, length) =>
  [[MEAN, "averaged"], ...Array.from({ length }, (_, i) => [i, `${name} ${i}`])];


// A panel: one explanation

function makePanel(record, section) {
  const [, T, rows, cols] = record.maps.shape;
  const panel = {
    ...record, section, T, rows, cols,
    maps: unpack(record.maps), cross: unpack(record.cross),
    pooler: unpack(record.pooler), latent: unpack(record.latent),
    source: "word", layer: MEAN, decoderHead: MEAN, poolerHead: MEAN, query: LATENT,
    root: copyOf("panel"),
  };
  panel.word = panel.pinned = firstShown(panel);
  panel.find = (selector) => panel.root.querySelector(selector);
  setText(panel.find(".label"), record.label);
  setText(panel.find(".question"), record.question);
  makeWords(panel);
  makeFrames(panel);
  makeSource(panel);
  makeOverview(panel);
  makeShapes(panel);
  if (data.folded) panel.find(".more").prepend(...[".rest", ".large", ".next"].map(panel.find));
  return panel;
}

function makeWords(panel) {
  const group = panel.find(".caption");
  group.setAttribute("aria-label", `${panel.question ? "Answer" : "Caption"}: ${panel.text}`);
  panel.words.forEach((word, i) => {
    const probability = panel.probabilities[i];
    const label = `${shownWord(word)}, probability ${percent(probability)}`;
    const button = radio(word ? "word" : "word end", label, () => pickWord(panel, i), shownWord(word));
    button.dataset.probability = percent(probability);
    button.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse") showWord(panel, i);
    });
    group.append(button);
  });
  group.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") showWord(panel, panel.pinned);
  });
  const step = (by) => () => pickFrame(panel, panel.frame + by);
  addKeys(group, { ArrowUp: step(-1), ArrowDown: step(1) });
}

function makeFrames(panel) {
  const slider = panel.find("input[type=range]");
  slider.max = panel.T - 1;
  slider.oninput = () => pickFrame(panel, Number(slider.value));
  panel.find(".large canvas").dataset.pixels = 640;
  panel.find(".strip").style.setProperty("--columns", isLong(panel) ? 8 : 4);
  panel.find(".strip").append(...Array.from({ length: panel.T }, (_, t) => {
    const canvas = element("canvas");
    canvas.dataset.pixels = 256;
    canvas.setAttribute("role", "img");
    return element("li", { onclick: () => pickFrame(panel, t) }, canvas,
      element("span", { className: "weight" }, element("span", { className: "fill" })),
      element("span", { className: "share" }),
      element("span", { className: "time" }, `${t + 1}`));
  }));
}

function makeSource(panel) {
  const sources = [["word", "Word"], ["decoder", "Decoder layers and heads"], ["pooler", "Pooler queries"]];
  const group = panel.find(".segments");
  sources.forEach(([source, text]) => {
    group.append(radio("segment", "", () => change(panel, { source }), text));
  });
  addKeys(group);
  panel.sources = sources.map(([source]) => source);
  const bars = panel.find(".bars");
  panel.queries.forEach((query, q) => {
    bars.append(radio("bar", `caption token ${query}`, () => change(panel, { source: "pooler", query: q }),
      element("span")));
  });
  addKeys(bars);
}

function makeOverview(panel) {
  const head = element("tr", {}, element("td"), ...Array.from({ length: panel.T }, (_, t) =>
    element("th", { scope: "col" }, `${t + 1}`)));
  const rows = panel.words.map((word, w) => element("tr", { onclick: () => pickWord(panel, w) },
    element("th", { scope: "row" }, shownWord(word)),
    ...panel.frameWeights[w].map((weight, t) => {
      const pick = () => pickFrame(panel, t);
      const cell = element("td", { onclick: pick }, percent(weight).replace("%", ""));
      cell.style.setProperty("--weight", Math.min(1, (weight * panel.T) / 3));
      return cell;
    })));
  panel.find("table").append(element("caption", {}, "per cent of each word's weight, by frame"),
    element("thead", {}, head), element("tbody", {}, ...rows));
}

function makeShapes(panel) {
  const sizeOf = (shape) => shape.reduce((a, b) => a * b, 1);
  const most = Math.max(...panel.shapes.map(([, shape]) => sizeOf(shape)));
  panel.find(".shapes ol").append(...withoutRepeats(panel.shapes).map(([name, shape]) => {
    const size = sizeOf(shape);
    const [, letters = "", step = ""] = STEPS.find(([pattern]) => pattern.test(name)) ?? [];
    const more = shape.length - letters.split(", ").length; // mean pooling keeps the frames apart: T, Q, E
    const axes = more === 1 ? `T, ${letters}` : more === 0 ? letters : "";
    const bar = element("span", { className: "size" });
    bar.style.setProperty("--size", Math.log(size + 1) / Math.log(most + 1));
    const count = `${size.toLocaleString("en")} ${size === 1 ? "number" : "numbers"}`;
    return element("li", {}, element("code", {}, name),
      element("span", { className: "shape" }, shape.join(" × ")),
      element("span", { className: "step" }, element("span", { className: "axes" }, axes), ` ${step}`),
      element("span", { className: "count" }, count), bar);
  }));
}


/** Join the rows of layers with equal shapes: "decoder.block.0.cross" to "decoder.block.0–11.cross". */
function withoutRepeats(shapes) {
  const rows = [];
  for (const [name, shape] of shapes) {
    const last = rows.at(-1);
    const kind = name.replace(/\d+/, "#");
    const repeats = last && kind !== name && last.kind === kind && String(last.shape) === String(shape);
    if (repeats) last.names.push(name);
    else rows.push({ kind, shape, names: [name] });
  }
  return rows.map(({ kind, shape, names }) => {
    const [first, end] = [names[0], names.at(-1)].map((name) => name.match(/\d+/)?.[0]);
    return [kind.replace("#", first === end ? first : `${first}–${end}`), shape];
  });
}


// What is shown

/** Change what a panel shows, and draw it. */
function change(panel, changes) {
  Object.assign(panel, changes);
  draw(panel);
}

/** Show a word, and the same word of the other panels of the section. */
function showWord(panel, word) {
  for (const other of panel.section.panels) {
    const same = other === panel ? word : other.words.indexOf(panel.words[word]);
    change(other, { word: same >= 0 ? same : other.pinned });
  }
}

/** Show a word until another one is picked. */
function pickWord(panel, word) {
  showWord(panel, word);
  for (const other of panel.section.panels) other.pinned = other.word;
  announce(summary(panel));
}

/** Show a frame, and the frame of the other panels at the same part of their clip. */
function pickFrame(panel, frame) {
  const shown = Math.max(0, Math.min(frame, panel.T - 1));
  for (const other of panel.section.panels) {
    other.frame = Math.floor(((shown + 0.5) / panel.T) * other.T); // a frame is the middle of its part
    drawLarge(other);
  }
}

function announce(text) {
  document.getElementById("announcement").textContent = text;
}

function draw(panel) {
  panel.map = scaled(shownMap(panel));
  check(panel.find(".caption"), panel.word);
  drawStrip(panel);
  drawLarge(panel);
  drawNext(panel);
  drawSource(panel);
  panel.root.querySelectorAll("tbody tr").forEach((row, w) => {
    row.classList.toggle("current", w === panel.word);
  });
}

function drawStrip(panel) {
  const { frames } = panel.map;
  panel.find(".strip").style.setProperty("--even", 1 / panel.T);
  [...panel.find(".strip").children].forEach((item, t) => {
    const canvas = item.querySelector("canvas");
    drawFrame(canvas, panel, t, panel.map);
    canvas.setAttribute("aria-label", `${frameName(panel, t)}: ${percent(frames[t])} of the weight`);
    item.style.setProperty("--share", frames[t]);
    item.querySelector(".share").textContent = percent(frames[t]);
  });
  const { patches, peak, flat, classShare } = panel.map;
  const times = peak ? (peak * patches.length) / sum(patches) : 1;
  const factor = times.toFixed(times < 9.95 ? 1 : 0);
  const evenly = "This map is flat: most patches weigh about the same, and none is outlined. ";
  panel.find(".rest").textContent = `${flat ? evenly : ""}The brightest patch has ${factor} times the weight of an average one. `
    + `${percent(classShare)} of the weight is on the frames’ class tokens, which have no place in the `
    + "picture.";
}

function drawLarge(panel) {
  const { frame } = panel;
  const canvas = panel.find(".large canvas");
  const text = `${frameName(panel, frame)}: ${percent(panel.map.frames[frame])} of the weight`;
  drawFrame(canvas, panel, frame, panel.map);
  canvas.setAttribute("aria-label", text);
  const slider = panel.find("input[type=range]");
  slider.value = frame;
  slider.setAttribute("aria-valuetext", text);
  panel.find("output").textContent = text;
  [...panel.find(".strip").children].forEach((item, t) => item.classList.toggle("current", t === frame));
}

function drawNext(panel) {
  const chosen = panel.words[panel.word];
  const last = panel.words.slice(Math.max(0, panel.word - 4), panel.word).join(" ");
  const before = panel.word > 4 ? `… ${last}` : last;
  panel.find(".next h3").textContent = before ? `Likeliest words after “${before}”` : "Likeliest first words";
  panel.find(".next ol").replaceChildren(...panel.likeliest[panel.word].map(([word, probability]) => {
    const item = element("li", { className: word === chosen ? "chosen" : "" },
      element("span", { className: word ? "name" : "name end" }, shownWord(word)),
      element("span", { className: "weight" }, element("span", { className: "fill" })),
      element("span", { className: "share" }, percent(probability)));
    item.style.setProperty("--share", probability);
    if (word === chosen) item.firstChild.append(element("span", { className: "hidden" }, ", chosen"));
    return item;
  }));
}

function drawSource(panel) {
  const { source, layer, decoderHead, poolerHead, query } = panel;
  check(panel.find(".segments"), panel.sources.indexOf(source));
  const [layers, heads] = panel.cross.shape;
  const pick = (name) => (value) => change(panel, { [name]: value });
  const choices = [];
  if (source === "decoder") {
    choices.push(choice("Decoder layer", numbered("layer", layers), layer, pick("layer")),
      choice("Decoder head", numbered("head", heads), decoderHead, pick("decoderHead")));
  }
  if (source === "pooler") {
    const queries = panel.queries.map((number, q) => [q, `caption token ${number}`]);
    choices.push(choice("Query", [[LATENT, "latent"], ...queries], query, pick("query")));
  }
  if (source !== "word" && !panel.averaged) {
    const poolerHeads = numbered("head", panel.pooler.shape[0]);
    choices.push(choice("Pooler head", poolerHeads, poolerHead, pick("poolerHead")));
  }
  keepFocus(panel.find(".choices"), choices);
  panel.find(".formula").textContent = formula(panel);
  const weights = reading(panel, panel.word, layer, decoderHead);
  const most = Math.max(...weights);
  const word = shownWord(panel.words[panel.word]);
  panel.find(".reading h4").textContent = `How much “${word}” reads each caption token`;
  [...panel.find(".bars").children].forEach((bar, q) => {
    bar.style.setProperty("--share", most ? weights[q] / most : 0);
    bar.title = `caption token ${panel.queries[q]}: ${percent(weights[q])}`;
    bar.setAttribute("aria-label", bar.title);
  });
  const checked = source === "pooler" ? query : LATENT;
  check(panel.find(".bars"), checked);
  if (checked === LATENT) panel.find(".bars").firstElementChild.tabIndex = 0;
}

/** Replace an element's children; if one had the focus, the new one at its place gets it. */
function keepFocus(parent, children) {
  const place = [...parent.children].findIndex((child) => child.contains(document.activeElement));
  parent.replaceChildren(...children);
  children[place]?.querySelector("select").focus();
}


// The page

let showsMaps = true;
let images = [];

async function load(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  return image;
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  document.querySelector(".theme").setAttribute("aria-pressed", dark);
}

function makeSection(record) {
  const section = { root: copyOf("section") };
  section.root.classList.toggle("folded", data.folded);
  section.panels = record.panels.map((panel) => makePanel(panel, section));
  setText(section.root.querySelector("h2"), record.heading);
  setText(section.root.querySelector(".note"), record.note);
  const panels = section.root.querySelector(".panels");
  panels.append(...section.panels.map((panel) => panel.root));
  panels.style.setProperty("--panels", section.panels.length);
  makeFilms(section);
  return section;
}

/** Show the frames without maps: once if all panels have the same frames, else in each. */
function makeFilms(section) {
  const { panels, root } = section;
  const shared = data.folded || panels.every((panel) => String(panel.frames) === String(panels[0].frames));
  if (shared) makeFilm(root.querySelector(".film"), panels[0]);
  else panels.forEach((panel) => makeFilm(panel.find(".film"), panel));
}

function makeFilm(film, panel) {
  film.style.setProperty("--columns", isLong(panel) ? 16 : 8);
  film.style.setProperty("--narrow", isLong(panel) ? 8 : 4);
  film.append(...panel.frames.map((place, t) => {
    const image = images[place].cloneNode();
    image.alt = frameName(panel, t);
    image.classList.toggle("pixels", panel.side <= EXACT_SIDE);
    return element("li", {}, image, element("span", { className: "time" }, shortName(panel, t)));
  }));
}

/** Show or hide the maps on all frames. */
function setMaps(shown, sections) {
  showsMaps = shown;
  for (const section of sections) section.panels.forEach(draw);
}

async function start() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches);
  dark.onchange = () => setTheme(dark.matches);
  document.querySelector(".theme").onclick = () =>
    setTheme(document.documentElement.dataset.theme !== "dark");
  document.querySelector("h1").textContent = data.title;
  setText(document.querySelector(".lead"), data.lead);
  setText(document.querySelector(".bottom .note"), data.footer);
  images = await Promise.all(data.images.map(load));
  const sections = data.sections.map(makeSection);
  document.querySelector("main").append(...sections.map((section) => section.root));
  document.querySelector(".maps input").onchange = (event) => setMaps(event.target.checked, sections);
  for (const section of sections) {
    for (const panel of section.panels) {
      const shares = shownMap(panel).frames;
      panel.frame = shares.indexOf(Math.max(...shares));
      draw(panel);
    }
  }
  document.documentElement.dataset.ready = "true";
}

start();
