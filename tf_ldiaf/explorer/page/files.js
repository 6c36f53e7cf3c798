"use strict";

/** Gives the browser a file to save. */
function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** An .npz file with one array of float32: a zip archive, not compressed, of one .npy file. */
function npz(name, values, shape) {
  const file = npy(values, shape), title = new TextEncoder().encode(`${name}.npy`);
  const sizes = [crc32(file), file.length, file.length];
  // Version, flags, method, time and date (1980-01-01), checksum and sizes, length of the name.
  const about = (view, at) => {
    [20, 0, 0, 0, 33].forEach((value, i) => view.setUint16(at + 2 * i, value, true));
    sizes.forEach((value, i) => view.setUint32(at + 10 + 4 * i, value, true));
    view.setUint16(at + 22, title.length, true);
  };
  const local = new DataView(new ArrayBuffer(30)), central = new DataView(new ArrayBuffer(46));
  local.setUint32(0, 0x04034b50, true);
  about(local, 4);
  central.setUint32(0, 0x02014b50, true);
  central.setUint16(4, 20, true);
  about(central, 6);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  [1, 1].forEach((value, i) => end.setUint16(8 + 2 * i, value, true));
  end.setUint32(12, 46 + title.length, true);
  end.setUint32(16, 30 + title.length + file.length, true);
  return new Blob([local, title, file, central, title, end]);
}

function npy(values, shape) {
  const about = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(", ")},), }`;
  const padded = about.padEnd(Math.ceil((11 + about.length) / 64) * 64 - 11) + "\n";
  const header = [0x93, ...new TextEncoder().encode("NUMPY"), 1, 0, padded.length & 255, padded.length >> 8];
  const numbers = new DataView(new ArrayBuffer(4 * values.length));
  values.forEach((value, i) => numbers.setFloat32(4 * i, value, true));
  return Uint8Array.from([...header, ...new TextEncoder().encode(padded), ...new Uint8Array(numbers.buffer)]);
}

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** Latents [N][D] as a text for a link, and back; a text of another length is null. */
const linkText = {
  of(latents) {
    const bytes = new Uint8Array(Float32Array.from(latents.flat()).buffer);
    const letters = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
    return btoa(letters).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  },

  read(text, num, dim) {
    let letters;
    try {
      letters = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    } catch {
      return null;
    }
    if (letters.length !== 4 * num * dim) return null;
    const numbers = [...new Float32Array(Uint8Array.from(letters, (letter) => letter.charCodeAt(0)).buffer)];
    if (!numbers.every(Number.isFinite)) return null;
    return Array.from({ length: num }, (_, n) => numbers.slice(n * dim, (n + 1) * dim));
  },
};
