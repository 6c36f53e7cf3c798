"use strict";

// The answers of the networks in MODEL, computed here. The equations are those of tf_ldiaf/layers/latent_distributions.py.
const backend = {
  canEncode: false,

  async ask(question, asked) {
    return network[question](asked);
  },
};

const network = (() => {
  const num = MODEL.nodes.length;
  const layers = {};
  for (const name of ["decoder", "top_down"]) {
    layers[name] = MODEL[name].map(({ shape, kernel, bias }) => ({
      width: shape.at(-1), inputs: shape.at(-2), kernel: floats(kernel), bias: floats(bias),
    }));
  }

  /** The numbers of a text of float16 bytes in base64. */
  function floats(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const halves = new Uint16Array(bytes.buffer);
    return Float32Array.from(halves, (half) => {
      const exponent = (half >> 10) & 31, fraction = half & 1023;
      const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction;
      return half >> 15 ? -size : size;
    });
  }

  /** ELU layers, the last one linear. `n`: which of several networks whose weights are stacked. */
  function dense(stack, inputs, n = 0) {
    return stack.reduce((x, { width, inputs: rows, kernel, bias }, depth) => {
      const outputs = bias.slice(n * width, (n + 1) * width);
      for (let row = 0; row < rows; row++) {
        const value = depth && x[row] < 0 ? Math.expm1(x[row]) : x[row];
        if (!value) continue;
        const start = (n * rows + row) * width;
        for (let column = 0; column < width; column++) outputs[column] += value * kernel[start + column];
      }
      return outputs;
    }, inputs);
  }

  function picture(latents) {
    const [height, width] = MODEL.image_shape;
    const probs = Array.from(dense(layers.decoder, latents.flat()), (logit) => 1 / (1 + Math.exp(-logit)));
    return Array.from({ length: height }, (_, row) => probs.slice(row * width, (row + 1) * width));
  }

  /** loc and scale of a node that is not the root, given its parents. */
  function prior(n, latents, adjacency) {
    const open = (parent) => adjacency[n][parent] && MODEL.edges.some((e) => e.child === n + 1 && e.parent === parent + 1);
    const parents = [];
    for (let parent = 1; parent < num; parent++) parents.push(parent > n && open(parent));
    const dim = MODEL.node_dim;
    if (!parents.some(Boolean)) return { loc: new Array(dim).fill(0), scale: new Array(dim).fill(1) };
    const inputs = parents.flatMap((isOpen, i) => (isOpen ? latents[i + 1] : new Array(dim).fill(0)));
    const outputs = Array.from(dense(layers.top_down, inputs, n));
    const scale = outputs.slice(dim, 2 * dim).map((x) => Math.log1p(Math.exp(x + MODEL.scale_offset)) + MODEL.min_scale);
    return { loc: outputs.slice(0, dim), scale };
  }

  /** Numbers in [0, 1) that depend on the seed, the row and the node only (mulberry32). */
  function uniform(seed, row, n) {
    let state = Math.imul(seed ^ Math.imul(row + 1, 0x85ebca6b), 0x9e3779b1) ^ Math.imul(n + 1, 0xc2b2ae35);
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let bits = Math.imul(state ^ (state >>> 15), state | 1);
      bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
      return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  function drawn(n, latents, adjacency, seed, row) {
    const draw = uniform(seed, row, n);
    const normal = () => Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());
    let { loc, scale } = { loc: new Array(MODEL.node_dim).fill(0), scale: new Array(MODEL.node_dim).fill(1) };
    if (n < num - 1) {
      ({ loc, scale } = prior(n, latents, adjacency));
    } else if (MODEL.root) {
      const component = Math.floor(draw() * MODEL.root.loc.length);
      [loc, scale] = [MODEL.root.loc[component], MODEL.root.scale[component]];
    }
    return loc.map((center, i) => center + scale[i] * normal());
  }

  function resample({ latents, keep, adjacency, seed }) {
    const all = latents.map((given, row) => {
      const found = given.map((code) => [...code]);
      for (let n = num - 1; n >= 0; n--) if (!keep[n]) found[n] = drawn(n, found, adjacency, seed, row);
      return found;
    });
    return { latents: all, probs: all.map(picture) };
  }

  function sample({ num: count, seed }) {
    const nothing = Array.from({ length: num }, () => new Array(MODEL.node_dim).fill(0));
    const open = Array.from({ length: num }, () => new Array(num).fill(true));
    const latents = Array.from({ length: count }, () => nothing);
    return resample({ latents, keep: new Array(num).fill(false), adjacency: open, seed });
  }

  return { model: () => MODEL, decode: ({ latents }) => ({ probs: latents.map(picture) }), sample, resample, prior };
})();
