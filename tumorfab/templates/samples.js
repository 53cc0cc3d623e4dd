// Reading: samples and verdicts from files, volumes made ready to be drawn. Nothing here touches the page.

const IMAGE = /^((fold-[^/]+)\/sub-([^/]+)\/anat\/sub-[^/]+_space-([^_/]+)_desc-([A-Za-z]+)(\d+))_([A-Za-z0-9]+)\.nii\.gz$/;

// Files

// The server of `tumorfab view`; the page lies in qc/.
function served() {
  const at = path => "../" + path.split("/").map(encodeURIComponent).join("/");
  return {
    list: async () => (await fetch("samples.json")).json(),
    async bytes(path) {
      const answer = await fetch(at(path));
      if (answer.status === 404) return null;
      if (!answer.ok) throw new Error(`${path}: the server says ${answer.status}`);
      return answer.arrayBuffer();
    },
    async save(sample, review) {
      const answer = await fetch("review.csv", {method: "POST", headers: {"Content-Type": "application/json"},
        body: JSON.stringify({sample, ...review})});
      if (!answer.ok) throw new Error(new DOMParser().parseFromString(await answer.text(), "text/html").body.innerText);
    },
  };
}

// A folder that the reader chose: the browser lets a page read no other file. It cannot write there.
function chosen(list) {
  const found = new Map([...list].map(file => [file.webkitRelativePath.replace(/^[^/]*\//, ""), file]));
  return {
    list: async () => [...found.keys()],
    bytes: async path => found.has(path) ? found.get(path).arrayBuffer() : null,
  };
}

async function text(files, path) {
  const bytes = await files.bytes(path);
  return bytes && new TextDecoder().decode(bytes);
}

// Verdicts as text: the format of tumorfab/review.py

function parseReviews(table) {
  const rows = [[""]];
  for (const [, quoted, plain, mark] of table.replace(/^\ufeff/, "").matchAll(/"((?:[^"]|"")*)"|([^",\r\n]+)|(,|\r?\n)/g)) {
    const row = rows.at(-1);
    if (mark === ",") row.push("");
    else if (mark) rows.push([""]);
    else row[row.length - 1] += plain ?? quoted.replaceAll('""', '"');
  }
  return new Map(rows.slice(1).filter(row => row.length === 3).map(([sample, verdict, note]) => [sample, {verdict, note}]));
}

function writeReviews(reviews) {
  const cell = value => /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  const rows = [...reviews].map(([sample, {verdict, note}]) => [sample, verdict, note]);
  rows.sort((a, b) => a[0] < b[0] ? -1 : 1);
  return [["sample", "verdict", "note"], ...rows].map(row => row.map(cell).join(",") + "\n").join("");
}

// Samples

function collect(paths) {
  const found = new Map();
  for (const path of paths) {
    const match = path.match(IMAGE);
    if (!match) continue;
    const [, name, set, host, space, kind, number, modality] = match;
    if (!found.has(name)) found.set(name, {name, set, host, space, kind, number, modalities: []});
    if (modality !== "dseg") found.get(name).modalities.push(modality);
  }
  return [...found.values()].filter(sample => sample.modalities.length)
    .sort((a, b) => a.name.localeCompare(b.name, "en", {numeric: true}));
}

// Volumes

async function image(files, path) {
  const bytes = await files.bytes(path);
  return bytes && niivue.NVImage.loadFromUrl({url: bytes, name: path.split("/").at(-1)});
}

// Inside a brain 0 is a usual intensity, outside it is the background: black is what the mask leaves out.
function blacken(volume, brain) {
  const values = volume.img;
  const inside = brain ? values.filter((_, i) => brain[i]) : values.filter(value => value !== 0);
  inside.sort();
  const at = share => inside[Math.min(inside.length - 1, Math.floor(share * inside.length))] ?? 0;
  for (let i = 0; i < values.length; i++) if (brain ? !brain[i] : values[i] === 0) values[i] = inside[0] ?? 0;
  const real = value => value * (volume.hdr.scl_slope || 1) + volume.hdr.scl_inter;
  return [real(at(.005)), real(at(.995))];
}

// A voxel's place in mm.
const place = (volume, voxel) => volume.hdr.affine.slice(0, 3).map(
  row => row[3] + voxel.reduce((sum, index, axis) => sum + row[axis] * index, 0));

// Pan and zoom that fill the picture with what is not black, and its middle from left to right in mm.
function frame(volume) {
  const size = volume.hdr.dims.slice(1, 4);
  const [low, high] = [[...size], [0, 0, 0]];
  const black = volume.img[0];
  let i = 0;
  for (let z = 0; z < size[2]; z++) for (let y = 0; y < size[1]; y++) for (let x = 0; x < size[0]; x++) {
    if (volume.img[i++] === black) continue;
    [x, y, z].forEach((at, axis) => {
      low[axis] = Math.min(low[axis], at);
      high[axis] = Math.max(high[axis], at);
    });
  }
  const zoom = Math.max(1, Math.min(...size.map((all, axis) => all / ((high[axis] - low[axis] + 1) * 1.08))));
  const whole = place(volume, size.map(all => (all - 1) / 2));
  const brain = place(volume, low.map((at, axis) => (at + high[axis]) / 2));
  return {frame: [...whole.map((at, axis) => at - zoom * brain[axis]), zoom], middle: brain[0]};
}

// Millilitres of each label, and the voxel of the tumour that is nearest to its middle.
function measure(volume) {
  const [, width, height, depth] = volume.hdr.dims;
  const counts = {};
  const tumour = [];
  volume.img.forEach((value, i) => {
    if (!value) return;
    counts[value] = (counts[value] ?? 0) + 1;
    tumour.push([i % width, Math.floor(i / width) % height, Math.floor(i / width / height)]);
  });
  const ml = volume.hdr.pixDims.slice(1, 4).reduce((a, b) => a * b) / 1000;
  for (const value in counts) counts[value] *= ml;
  const middle = [0, 1, 2].map(axis => tumour.reduce((sum, voxel) => sum + voxel[axis], 0) / tumour.length);
  const away = voxel => Math.hypot(...voxel.map((index, axis) => index - middle[axis]));
  const voxel = tumour.length ? tumour.reduce((best, other) => away(other) < away(best) ? other : best)
    : [width / 2, height / 2, depth / 2];
  return {ml: counts, mm: place(volume, voxel)};
}

async function load(files, sample, modality) {
  const subject = `sub-${sample.host}/anat/sub-${sample.host}_space-${sample.space}_`;
  const paths = [`${sample.name}_${modality}.nii.gz`, `${sample.name}_dseg.nii.gz`,
    `${subject}desc-preproc_${modality}.nii.gz`, `${subject}desc-brain_mask.nii.gz`];
  const [volume, label, host, mask] = await Promise.all(paths.map(path => image(files, path)));
  if (!volume || !label) throw new Error(`${volume ? paths[1] : paths[0]}: no such file`);
  const window = [volume, host].map(one => one && blacken(one, mask?.img));
  // Both in the window of the host, so that what looks different is different.
  for (const one of [volume, host]) if (one) [one.cal_min, one.cal_max] = window[1] ?? window[0];
  const I = [0, ...Object.keys(LABELS).map(Number)];
  const rgb = I.map(value => (LABELS[value]?.[1] ?? "#000000").match(/\w\w/g).map(hex => parseInt(hex, 16)));
  label.setColormapLabel({I, R: rgb.map(c => c[0]), G: rgb.map(c => c[1]), B: rgb.map(c => c[2]), labels: I.map(String)});
  return {volume, label, host, ...frame(volume), ...measure(label)};
}
