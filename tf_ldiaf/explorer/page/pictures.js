"use strict";

/** Draws an image [H][W], or [H][W][3], of numbers from 0 to `most` on a canvas; of 0 and 1, dark on light as ink. */
function paint(canvas, image, most = 1) {
  canvas.height = image.length;
  canvas.width = image[0].length;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const shade = (value) => Math.round(255 * (model.num_values === 2 ? 1 - value : value / most));
  image.flat().forEach((pixel, i) => {
    const [red, green, blue] = typeof pixel === "number" ? [pixel, pixel, pixel] : pixel;
    pixels.data.set([shade(red), shade(green), shade(blue), 255], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
}

/** A copy of a canvas whose pixels can be seen. */
function enlarged(canvas) {
  const zoom = Math.max(1, Math.ceil(280 / Math.max(canvas.width, canvas.height)));
  const large = document.createElement("canvas");
  large.width = zoom * canvas.width;
  large.height = zoom * canvas.height;
  const context = large.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(canvas, 0, 0, large.width, large.height);
  return large;
}

/** Bars of a code's numbers, up or down from the middle; the largest is as high as they go. */
function bars(code) {
  const height = 40, step = 100 / code.length, most = Math.max(1, ...code.map(Math.abs));
  const parts = code.map((value, i) => {
    const size = (Math.abs(value) / most) * (height / 2);
    const top = value > 0 ? height / 2 - size : height / 2;
    return `<rect x="${i * step + 0.15 * step}" y="${top}" width="${0.7 * step}" height="${Math.max(size, 0.5)}"/>`;
  });
  return `<svg viewBox="0 0 100 ${height}" preserveAspectRatio="none" aria-hidden="true">${parts.join("")}</svg>`;
}

/** Lets one draw on a canvas with the mouse or a finger; `done` gets the image [H][W] of 0 and `most` after a stroke. */
function makePad(canvas, [height, width], most, done) {
  const radius = Math.max(0.6, Math.min(height, width) / 25);
  let image, last = null;

  function clear() {
    image = Array.from({ length: height }, () => new Array(width).fill(0));
    paint(canvas, image, most);
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  }

  function dot([x, y]) {
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        if (Math.hypot(column + 0.5 - x, row + 0.5 - y) <= radius) image[row][column] = most;
      }
    }
  }

  function stroke(event) {
    const next = place(event), [from, to] = [last ?? next, next];
    const steps = Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])) || 1;
    for (let i = 0; i <= steps; i++) dot([0, 1].map((axis) => from[axis] + ((to[axis] - from[axis]) * i) / steps));
    last = next;
    paint(canvas, image, most);
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    stroke(event);
  });
  canvas.addEventListener("pointermove", (event) => last && stroke(event));
  canvas.addEventListener("pointerup", () => {
    last = null;
    done(image.map((row) => [...row]));
  });
  canvas.addEventListener("pointercancel", () => (last = null));
  clear();
  return { clear };
}
