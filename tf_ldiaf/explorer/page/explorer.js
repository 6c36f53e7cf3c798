"use strict";

// Plain scripts, not modules: browsers load no modules into a page that is opened as a file.
const by = (id) => document.getElementById(id);
// What the page shows: latents [N][D] and the seed they were drawn with; the chosen node; edges that are shut; the
// latents of A and B, and which of the two each node is from.
const state = { latents: null, seed: 0, node: 1, shut: new Set(), mixed: { a: null, b: null }, from: [] };
let model, showGraph, sliders = [];

const zeroTo = (num) => Array.from({ length: num }, (_, i) => i);
const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
const nodeNames = (nodes) => nodes.map((n) => `z${n}`).join(", ").replace(/, ([^,]*)$/, " and $1");
const percent = (share) => `${(100 * share).toFixed(0)} %`;

function say(sentence) {
  by("message").textContent = sentence;
}

const waiting = [];
let isBusy = false;

/** Does one task after another. Of tasks of one kind that wait, as of a slider that moves, only the last is done. */
async function perform(task, kind = null) {
  const older = kind === null ? -1 : waiting.findIndex((one) => one.kind === kind);
  if (older >= 0) waiting.splice(older, 1);
  waiting.push({ task, kind });
  if (isBusy) return;
  isBusy = true;
  while (waiting.length) {
    try {
      await waiting.shift().task();
      say("");
    } catch (error) {
      say(error.message);
    }
  }
  isBusy = false;
}

/** [N][N] of true, or false where an edge is shut: adjacency[child][parent]. */
function adjacency(shut) {
  const nodes = zeroTo(model.nodes.length);
  return nodes.map((child) => nodes.map((parent) => !shut.has(edgeName({ parent: parent + 1, child: child + 1 }))));
}

// What is shown

async function show(latents, probs) {
  state.latents = latents;
  const [picture] = probs ?? (await backend.ask("decode", { latents: [latents] })).probs;
  ["picture", "again"].forEach((id) => paint(by(id), picture));
  latents.forEach((code, n) => (by(`code-${n + 1}`).innerHTML = bars(code)));
  sliders.forEach((slider) => slider.follow());
  await compare();
  keepLink();
}

/** The picture with the shut edges open and shut: what is below them is drawn twice, with the same noise. */
async function compare() {
  by("comparison").hidden = !state.shut.size;
  if (!state.shut.size) return;
  const changed = new Set();
  for (const edge of model.edges.filter((e) => state.shut.has(edgeName(e)))) {
    changed.add(edge.child);
    descendants(model, edge.child).forEach((n) => changed.add(n));
  }
  const asked = { latents: [state.latents], keep: model.nodes.map((_, n) => !changed.has(n + 1)), seed: state.seed };
  for (const [id, shut] of [["open", new Set()], ["shut", state.shut]]) {
    paint(by(id), (await backend.ask("resample", { ...asked, adjacency: adjacency(shut) })).probs[0]);
  }
  by("shut-caption").textContent = `without ${[...state.shut].map((edge) => `z${edge.replace("-", "\u00a0→\u00a0z")}`).join(", ")}`;
  const others = changed.size < model.nodes.length ? " All others are held." : "";
  by("compared").textContent = `Both are drawn with the same noise: ${nodeNames([...changed].sort((a, b) => a - b))} anew.${others}`;
}

function choose(node) {
  state.node = node;
  by(`node-${node}`).checked = true;
  const below = [...descendants(model, node)];
  by("redraw").textContent = `Draw z${node} anew${below.length ? `, with ${nodeNames(below)}` : ""}`;
  by("node-title").textContent = `Node z${node}`;
  makeSliders();
  showGraph(state);
  keepLink();
}

function shut(edge) {
  if (!state.shut.delete(edge)) state.shut.add(edge);
  by(`edge-${edge}`).checked = state.shut.has(edge);
  showGraph(state);
  keepLink();
  perform(compare, "compare");
}

// Drawing

const draw = () => perform(async () => {
  state.seed = newSeed();
  const { latents, probs } = await backend.ask("sample", { num: 1, seed: state.seed });
  await show(latents[0], probs);
});

const redraw = () => perform(async () => {
  state.seed = newSeed();
  const below = descendants(model, state.node), keep = model.nodes.map((_, n) => n + 1 !== state.node && !below.has(n + 1));
  const asked = { latents: [state.latents], keep, adjacency: adjacency(new Set()), seed: state.seed };
  const { latents, probs } = await backend.ask("resample", asked);
  await show(latents[0], probs);
});

// The sliders of a node

function makeSliders() {
  const { mean, components, shares, quantiles } = model.directions[state.node - 1];
  by("directions-text").textContent = components.length
    ? `A slider moves the node's code in one of the directions in which codes vary most, and holds all other nodes. Its
       position is a quantile: at 50 % half of the codes lie below. The directions are the principal components of the
       codes of ${model.num_seen} images that the model drew and encoded.`
    : "The code of this node is the same for all images: there is nothing to slide.";
  sliders = components.map((component, k) => {
    const row = document.createElement("label");
    row.className = "slider";
    row.innerHTML = `<span>Direction ${k + 1}, ${percent(shares[k])} of the variance</span><output></output>
      <input type="range" min="1" max="${quantiles[k].length}" step="1">`;
    const [output, input] = [row.querySelector("output"), row.querySelector("input")];
    const place = () => component.reduce((sum, c, d) => sum + c * (state.latents[state.node - 1][d] - mean[d]), 0);
    const label = () => (output.textContent = `${input.value} %`);
    input.addEventListener("input", () => {
      label();
      const step = quantiles[k][input.value - 1] - place();
      const latents = state.latents.map((code) => [...code]);
      component.forEach((c, d) => (latents[state.node - 1][d] += step * c));
      state.latents = latents;
      perform(() => show(latents), "slider");
    });
    const follow = () => {
      const away = quantiles[k].map((quantile) => Math.abs(quantile - place()));
      input.value = away.indexOf(Math.min(...away)) + 1;
      label();
    };
    return { row, follow };
  });
  by("sliders").replaceChildren(...sliders.map(({ row }) => row));
  if (state.latents) sliders.forEach((slider) => slider.follow());
}

// Images that are brought

/** Encodes an image [H][W], shows its reconstruction, and says what it is worth; or takes what is `known` of it. */
async function bring(image, known) {
  const { latents, probs } = known ?? (await backend.ask("encode", { images: [image] }));
  await show(latents[0], probs);
  paint(by("original"), image, model.num_values - 1);
  const reconstruction = by("reconstruction");
  reconstruction.width = by("picture").width;
  reconstruction.height = by("picture").height;
  reconstruction.getContext("2d").drawImage(by("picture"), 0, 0);
  by("encoded").hidden = false;
  by("bounds").textContent = "";
  if (!backend.canEncode) return;
  const found = await backend.ask("bounds", { image, seed: 0 });
  const nats = (name) => `${found[name].toFixed(2)} ± ${found[`${name}_stderr`].toFixed(2)} nats`;
  const isDecidedByFew = found.log_likelihood_stderr > 0.5;
  by("bounds").textContent = `ELBO ${nats("elbo")}, log-likelihood ${nats("log_likelihood")}, from the same
    ${found.num_importance_samples} samples. ± is the standard error.
    ${isDecidedByFew ? "Few of the samples decide the log-likelihood, so it may be too low." : ""}`;
}

function makeThumbnail(image, onClick, name) {
  const button = document.createElement("button"), canvas = document.createElement("canvas");
  button.setAttribute("aria-label", name);
  paint(canvas, image, model.num_values - 1);
  button.append(canvas);
  button.addEventListener("click", onClick);
  return button;
}

function showExamples(images, latents) {
  const thumbnails = images.map((image, i) =>
    makeThumbnail(image, () => perform(() => bring(image, latents && { latents: [latents[i]] })), `image ${i + 1}`),
  );
  by("examples").replaceChildren(...thumbnails);
}

const upload = (file) => perform(async () => {
  const { images } = await backend.ask("read", file);
  if (images.length > 1) showExamples(images);
  await bring(images[0]);
});

// Two pictures in one

function makeMix() {
  by("mix").replaceChildren(...zeroTo(model.nodes.length).reverse().map((n) => {
    const row = document.createElement("fieldset");
    const choice = (side) => `<label><input type="radio" name="mix-${n + 1}" value="${side}"
      ${side === "a" ? "checked" : ""}> ${side.toUpperCase()}</label>`;
    row.className = "choices";
    row.innerHTML = `<legend>z${n + 1} from</legend>${choice("a")}${choice("b")}`;
    row.addEventListener("change", (event) => {
      state.from[n] = event.target.value;
      perform(() => show(state.from.map((side, i) => [...state.mixed[side][i]])), "mix");
    });
    return row;
  }));
  state.from = model.nodes.map(() => "a");
}

async function keepFor(side, latents) {
  state.mixed[side] = latents.map((code) => [...code]);
  paint(by(side), (await backend.ask("decode", { latents: [latents] })).probs[0]);
}

// What is kept

function keepLink() {
  if (!state.latents) return;
  const parts = { node: state.node, seed: state.seed, shut: [...state.shut].join(","), z: linkText.of(state.latents) };
  history.replaceState(null, "", `#${new URLSearchParams(parts)}`);
  by("link").value = location.href;
}

const linked = () => new URLSearchParams(location.hash.slice(1));

/** Shows the state that the parts of a link hold, if they hold one. */
async function openLink(parts) {
  if (!parts.has("z")) return;
  const latents = linkText.read(parts.get("z"), model.nodes.length, model.node_dim);
  if (!latents) throw new Error("The link is of another model, or was cut off.");
  state.seed = Number(parts.get("seed")) & 0x7fffffff;
  state.shut = new Set((parts.get("shut") ?? "").split(",").filter((edge) => by(`edge-${edge}`)));
  model.edges.forEach((edge) => (by(`edge-${edgeName(edge)}`).checked = state.shut.has(edgeName(edge))));
  const node = Number(parts.get("node"));
  state.latents = latents;
  choose(node >= 1 && node <= model.nodes.length ? Math.floor(node) : model.nodes.length);
  await show(latents);
}

function makeChoices() {
  by("nodes").innerHTML = zeroTo(model.nodes.length).reverse().map((n) => `<label><input type="radio" name="node"
    id="node-${n + 1}" value="${n + 1}"> ${nodeText(model.nodes[n], n)}</label>`).join("");
  by("nodes").addEventListener("change", (event) => choose(Number(event.target.value)));
  by("edges").innerHTML = model.edges.map((edge) => `<label><input type="checkbox" id="edge-${edgeName(edge)}"
    value="${edgeName(edge)}"> ${edgeText(edge)}</label>`).join("");
  by("edges").addEventListener("change", (event) => shut(event.target.value));
  by("edge-choices").hidden = !model.edges.length;
  by("codes").innerHTML = zeroTo(model.nodes.length).reverse().map((n) => `<div class="code"><span>z${n + 1}</span>
    <div id="code-${n + 1}"></div></div>`).join("");
}

function listen() {
  by("draw").addEventListener("click", draw);
  by("redraw").addEventListener("click", redraw);
  for (const side of ["a", "b"]) {
    by(`keep-${side}`).addEventListener("click", () => perform(() => keepFor(side, state.latents)));
  }
  by("save-picture").addEventListener("click", () => enlarged(by("picture")).toBlob((blob) => save("picture.png", blob)));
  by("save-codes").addEventListener("click", () => {
    const shape = [1, model.nodes.length, model.node_dim];
    save("codes.npz", npz("latents", state.latents.flat(), shape));
  });
  by("copy").addEventListener("click", async () => {
    by("link").select();
    await navigator.clipboard?.writeText(by("link").value);
  });
  addEventListener("hashchange", () => perform(() => openLink(linked())));
  by("own").hidden = !backend.canEncode;
  by("no-encoder").hidden = backend.canEncode;
  if (!backend.canEncode) return;
  const isBinary = model.num_values === 2;
  by("read-text").textContent = `A picture, or an .npz file of images. A picture is
    ${isBinary ? "scaled to the model's size and made black and white" : "cropped and scaled to the model's size"}.`;
  by("drawing").hidden = by("clear").hidden = model.image_shape.length > 2; // nobody draws in colour here
  const most = model.num_values - 1, pad = makePad(by("pad"), model.image_shape, most, (image) => perform(() => bring(image), "pad"));
  by("clear").addEventListener("click", pad.clear);
  by("upload").addEventListener("change", (event) => event.target.files.length && upload(event.target.files[0]));
}

perform(async () => {
  model = await backend.ask("model");
  const [height, width] = model.image_shape, num = model.nodes.length;
  document.title = `${model.name} · explorer`;
  by("name").textContent = model.name;
  by("about").textContent = `A model of images of ${height} x ${width} pixels. It has ${num} latent node${num > 1 ? "s" : ""} of
    ${model.node_dim} numbers${num > 1 ? " each" : ""}. These numbers are the code from which a picture is drawn.`;
  document.documentElement.style.setProperty("--shape", `${width} / ${height}`);
  makeChoices();
  makeMix();
  showGraph = makeGraph(by("graph"), by("tooltip"), model, choose, (edge) => shut(edgeName(edge)));
  listen();
  showExamples(model.examples.images, model.examples.latents);
  const examples = model.examples.latents;
  await keepFor("a", examples[0]);
  await keepFor("b", examples[1 % examples.length]);
  const parts = linked();
  const { latents, probs } = await backend.ask("sample", { num: 1, seed: state.seed });
  state.latents = latents[0];
  choose(num);
  await show(latents[0], probs);
  await openLink(parts);
});
