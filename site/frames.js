// Frames: a file to frames by the browser's own decoder, and frames with their map to canvases.

export const FRAMES = 8;
const MOST_PIXELS = 1920 * 1080; // of a frame; larger ones are scaled down first

// Return how to open a file: the name of a method of the session, and its arguments. The package reads a GIF
// itself; the browser decodes what needs ffmpeg there, by time, as the package does: frame t of T is the one on
// screen at (t + 1/2) / T of the duration.
export async function opened(file) {
  const bytes = await file.slice(0, 6).text();
  if (bytes.startsWith("GIF8")) {
    return { method: "open_file", args: [file.name, await file.arrayBuffer()] };
  }
  if (file.type.startsWith("image/")) {
    const picture = await createImageBitmap(file).catch(() => refuse(file, "a picture"));
    return frames([picture], picture.width, picture.height);
  }
  return videoFrames(file);
}

function refuse(file, kind) {
  throw new Error(`${file.name}: not ${kind} that this browser can decode. Give a GIF, a video or a picture.`);
}

async function videoFrames(file) {
  const video = document.createElement("video");
  video.muted = true;
  video.preload = "auto";
  const address = URL.createObjectURL(file);
  try {
    await reached(video, "loadeddata", () => { video.src = address; }).catch(() => refuse(file, "a video"));
    if (!Number.isFinite(video.duration)) { // a recording without a duration: its end is found by seeking
      await reached(video, "seeked", () => { video.currentTime = 1e7; });
    }
    const duration = Number.isFinite(video.duration) ? video.duration : video.currentTime;
    if (!video.videoWidth || !(duration > 0)) refuse(file, "a video");
    const pictures = [];
    for (let t = 0; t < FRAMES; t++) {
      await show(video, ((t + 0.5) * duration) / FRAMES);
      pictures.push(await createImageBitmap(video));
    }
    return frames(pictures, video.videoWidth, video.videoHeight);
  } finally {
    video.removeAttribute("src");
    video.load();
    URL.revokeObjectURL(address);
  }
}

// Show a video at a time. The event "seeked" may come before the picture: wait for that, too. Where the same
// picture is shown again there may be no callback, so the wait has an end.
async function show(video, time) {
  const painted = new Promise((resolve) => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
  });
  await reached(video, "seeked", () => { video.currentTime = time; });
  await Promise.race([painted, pause(1000)]);
  for (let i = 0; i < 100 && video.readyState < video.HAVE_CURRENT_DATA; i++) await pause(50);
}

function pause(milliseconds) {
  return new Promise((resolve) => { setTimeout(resolve, milliseconds); });
}

// Start something and wait for the event that ends it.
function reached(target, event, start) {
  return new Promise((resolve, reject) => {
    target.addEventListener(event, resolve, { once: true });
    target.addEventListener("error", () => reject(target.error), { once: true });
    start();
  });
}

function frames(pictures, width, height) {
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  [width, height] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  const size = 4 * width * height;
  const pixels = new Uint8Array(FRAMES * size);
  for (let t = 0; t < FRAMES; t++) { // a picture repeats, as in the package
    if (pictures[t] || t === 0) {
      context.fillStyle = "#fff"; // under what is transparent, as in the package
      context.fillRect(0, 0, width, height);
      context.drawImage(pictures[t], 0, 0, width, height);
    }
    pixels.set(context.getImageData(0, 0, width, height).data, t * size);
  }
  return { method: "open_frames", args: [pixels.buffer, width, height] };
}

// Draw the frames, which lie side by side in one picture. With a map, what was not looked at is dimmed.
export async function draw(list, result, map) {
  const strip = new Image();
  strip.src = result.strip;
  await strip.decode();
  if (list.children.length !== result.frames) {
    list.replaceChildren(...Array.from({ length: result.frames }, item));
  }
  const largest = map && Math.max(...map.map.flat());
  [...list.children].forEach((li, t) => {
    drawFrame(li.querySelector("canvas"), strip, t, result.size, map, largest);
    const share = map ? map.frames[t] : 0;
    li.querySelector(".share").hidden = li.querySelector(".percent").hidden = !map;
    li.querySelector("i").style.width = `${(100 * share) / Math.max(...(map?.frames ?? [1]))}%`;
    li.querySelector(".percent").textContent = `${(100 * share).toFixed(1)}%`;
    li.querySelector("canvas").setAttribute("aria-label",
      `Frame ${t + 1}` + (map ? `, ${(100 * share).toFixed(1)}% of the attention` : ""));
  });
}

function item() {
  const li = document.createElement("li");
  li.innerHTML = '<canvas width="256" height="256" role="img"></canvas>' +
    '<span class="share"><i></i></span><span class="percent"></span>';
  return li;
}

function drawFrame(canvas, strip, t, size, map, largest) {
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(strip, t * size, 0, size, size, 0, 0, canvas.width, canvas.height);
  if (!map) return;
  const rows = Math.round(Math.sqrt(map.map[t].length));
  const veil = new OffscreenCanvas(rows, rows);
  const cells = new ImageData(rows, rows);
  map.map[t].forEach((weight, i) => { // the root shows small weights, too
    cells.data.set([12, 16, 22, 195 * (1 - Math.sqrt(weight / largest))], 4 * i);
  });
  veil.getContext("2d").putImageData(cells, 0, 0);
  context.drawImage(veil, 0, 0, canvas.width, canvas.height);
}
