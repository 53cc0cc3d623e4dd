"use strict";
// The synthetic samples of a results folder, each with its label and its host, and verdicts on them.

const $ = id => document.getElementById(id);
const IMAGE = /^((fold-[^/]+)\/sub-([^/]+)\/anat\/sub-[^/]+_space-([^_/]+)_desc-([A-Za-z]+)(\d+))_([A-Za-z0-9]+)\.nii\.gz$/;
const SHOWN = 200;  // rows of the list around the current one: of more the page would be slow
const FINE = {isRadiologicalConvention: true, sagittalNoseLeft: true, isResizeCanvas: true,
  multiplanarLayout: 2, multiplanarShowRender: 1, crosshairColor: [.3, .8, .8, 1], crosshairWidth: .4, crosshairGap: 12,
  isSliceMM: true, yoke3Dto2DZoom: true, isOrientationTextVisible: true, fontColor: [.6, .65, .7, 1],
  dragAndDropEnabled: false, logLevel: "error", loadingText: "", backColor: [0, 0, 0, 1]};

let files;                 // where files come from: a server or a chosen folder
let samples = [];          // {name, set, host, space, kind, number, modalities}
let listed = [];           // those that the filter leaves
let current = null;        // the sample that is shown
let shown = {};            // its volumes
let reviews = new Map();   // name -> {verdict, note}
let saving = Promise.resolve();
let unsaved = false;       // whether a verdict would be lost with the page
const views = {};          // the two NiiVue instances

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

async function text(path) {
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

function writeReviews() {
  const cell = value => /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  const rows = [...reviews].map(([sample, {verdict, note}]) => [sample, verdict, note]);
  rows.sort((a, b) => a[0] < b[0] ? -1 : 1);
  return [["sample", "verdict", "note"], ...rows].map(row => row.map(cell).join(",") + "\n").join("");
}

// The list

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

const title = sample => `${sample.host} ${sample.kind}${sample.number}`;

function filter() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  listed = samples.filter(sample => {
    const {verdict, note} = reviews.get(sample.name) ?? {verdict: "open", note: ""};
    const about = `${sample.name} ${verdict} ${note}`.toLowerCase();
    return words.every(word => about.includes(word));
  });
  list();
}

function list() {
  const at = Math.max(0, listed.indexOf(current));
  const from = Math.max(0, at - SHOWN / 2);
  const several = new Set(samples.map(sample => sample.set)).size > 1;
  $("list").replaceChildren(...listed.slice(from, from + SHOWN).map(sample => {
    const row = make("li", title(sample) + (several ? ` ${sample.set}` : ""), reviews.get(sample.name)?.verdict);
    row.title = sample.name;
    row.onclick = () => open(sample);
    if (sample === current) row.setAttribute("aria-current", "true");
    return row;
  }));
  $("list").querySelector("[aria-current]")?.scrollIntoView({block: "nearest"});
  const done = samples.filter(sample => reviews.has(sample.name)).length;
  $("count").textContent = `${listed.length} of ${samples.length} samples, ${done} judged`;
}

function step(by) {
  const at = listed.indexOf(current);
  const next = listed[at < 0 ? 0 : at + by];
  if (next) open(next);
}

// Volumes

async function image(path) {
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

async function load(sample, modality) {
  const subject = `sub-${sample.host}/anat/sub-${sample.host}_space-${sample.space}_`;
  const paths = [`${sample.name}_${modality}.nii.gz`, `${sample.name}_dseg.nii.gz`,
    `${subject}desc-preproc_${modality}.nii.gz`, `${subject}desc-brain_mask.nii.gz`];
  const [volume, label, host, mask] = await Promise.all(paths.map(image));
  if (!volume || !label) throw new Error(`${volume ? paths[1] : paths[0]}: no such file`);
  const window = [volume, host].map(one => one && blacken(one, mask?.img));
  // Both in the window of the host, so that what looks different is different.
  for (const one of [volume, host]) if (one) [one.cal_min, one.cal_max] = window[1] ?? window[0];
  const I = [0, ...Object.keys(LABELS).map(Number)];
  const rgb = I.map(value => (LABELS[value]?.[1] ?? "#000000").match(/\w\w/g).map(hex => parseInt(hex, 16)));
  label.setColormapLabel({I, R: rgb.map(c => c[0]), G: rgb.map(c => c[1]), B: rgb.map(c => c[2]), labels: I.map(String)});
  return {volume, label, host, ...frame(volume), ...measure(label)};
}

function draw() {
  const opacity = $("label").checked ? Number($("opacity").value) : 0;
  for (const [name, view] of Object.entries(views)) {
    const back = name === "host" ? shown.host : shown.volume;
    if (!back || $(`${name}-view`).hidden) continue;
    shown.label.opacity = opacity;
    if (view.volumes[0] !== back || view.volumes[1] !== shown.label) {
      view.volumes = [];
      view.addVolume(back);
      view.addVolume(shown.label);
    }
    view.setOpacity(1, opacity);
  }
}

// Brings the tumour into all planes, and its side of the head to the front.
function look() {
  for (const view of Object.values(views)) {
    if (!view.volumes.length) continue;
    view.scene.crosshairPos = view.mm2frac(shown.mm);
    view.setPan2Dxyzmm(shown.frame);
    view.setRenderAzimuthElevation(shown.mm[0] < shown.middle ? 110 : 250, 15);
  }
}

async function open(sample, modality) {
  const again = sample === current;
  current = sample;
  document.body.dataset.shown = "";
  location.replace("#" + encodeURIComponent(sample.name));
  const known = modality ?? $("modality").value;
  modality = sample.modalities.includes(known) ? known : sample.modalities[0];
  $("modality").replaceChildren(...sample.modalities.map(name => new Option(name, name, false, name === modality)));
  $("title").textContent = `sub-${title(sample)}`;
  notice("Loading ...");
  mark();
  if (!again) $("note").value = reviews.get(sample.name)?.note ?? "";
  tell("");
  try {
    const [found, sidecar] = await Promise.all([load(sample, modality), text(`${sample.name}.json`)]);
    if (sample !== current) return;  // another was asked for meanwhile
    shown = found;
    about(sidecar && JSON.parse(sidecar));
    arrange();
    if (!again) look();
    notice("");
    document.body.dataset.shown = sample.name;
  } catch (error) {
    if (sample === current) notice(error.message);
  }
}

// Which of the two views are seen. A host that is not there (as in a release) is not offered.
function arrange() {
  const wanted = document.querySelector("#views [aria-pressed=true]").dataset.view;
  const view = shown.host ? wanted : "sample";
  $("host-view").hidden = view === "sample";
  $("sample-view").hidden = view === "host";
  $("views").hidden = !shown.host;
  draw();
  for (const each of Object.values(views)) each.resizeListener();
}

function choose(view) {
  for (const button of document.querySelectorAll("#views button")) button.ariaPressed = button.dataset.view === view;
  arrange();
}

// What is known of the sample

function about(record) {
  const rows = [];
  const add = (name, value) => value !== undefined && value !== "" && value !== null && rows.push([name, String(value)]);
  const list = value => Array.isArray(value) ? value.join(", ") : value;
  const number = (value, places, unit) => value === undefined ? undefined : `${value.toFixed(places)}${unit}`;
  add("Host", current.host + (record?.host_tumour && record.host_tumour !== "none" ? ` (tumour ${record.host_tumour})` : ""));
  add("Donors", list(record?.donors ?? record?.donor));
  add("Set", current.set);
  for (const tumour of record?.draw?.tumours ?? []) {
    const {pose = {}} = tumour;
    add("Tumour", tumour.roi + (tumour.partner !== tumour.roi ? ` with ${tumour.partner}` : ""));
    add("Site", pose.site && `voxel ${pose.site.map(index => Math.round(index)).join(", ")}`);
    add("Scale", pose.scale && "× " + pose.scale.map(factor => factor.toFixed(2)).join(", ") + (pose.mirror ? ", mirrored" : ""));
    add("Mass effect", number(tumour.mass_effect, 2, " of the radius"));
  }
  if (record?.draw?.tumour_free) add("Tumour", "left out; only the displacement remains");
  add("Displacement", number(record?.largest_displacement_mm, 1, " mm at most"));
  add("Jacobian", number(record?.smallest_jacobian, 2, " at least"));
  add("Refused", list(record?.refused));
  add("Wish", record?.wish && Object.keys(record.wish).length ? JSON.stringify(record.wish) : "");
  add("Refined from", record?.coarse?.replace(/.*_desc-/, ""));
  add("Seed", record?.seed);
  const parts = [heading("Label"), table(Object.keys(LABELS).map(value =>
    [LABELS[value][0], `${(shown.ml[value] ?? 0).toFixed(1)} ml`, LABELS[value][1]]))];
  parts.push(heading("Sample"), table(rows));
  const checks = Object.entries(record?.checks ?? {});
  const failed = checks.filter(([, passed]) => !passed).length;
  const lines = checks.map(([name, passed]) => make("div", name, passed ? "pass" : "fail"));
  parts.push(heading("Checks"), fold(failed ? `${failed} of ${checks.length} failed` : `all ${checks.length} hold`,
    failed ? "fail" : "pass", ...lines));
  parts.push(fold("The whole sidecar", "", make("pre", record ? JSON.stringify(record, null, 1) : "There is none.")));
  $("about").replaceChildren(...parts);
}

const make = (tag, words, kind = "") => Object.assign(document.createElement(tag), {textContent: words, className: kind});
const heading = words => make("h2", words);

// Details that are closed, but not where something failed.
function fold(words, kind, ...inner) {
  const found = document.createElement("details");
  found.open = kind === "fail";
  const summary = make("summary", "");
  summary.append(make("span", words, kind));
  found.append(summary, ...inner);
  return found;
}

function table(rows) {
  const found = document.createElement("dl");
  for (const [name, value, colour] of rows) {
    const term = make("dt", name);
    if (colour) {
      const swatch = make("i", "", "swatch");
      swatch.style.background = colour;
      term.prepend(swatch);
    }
    found.append(term, make("dd", value));
  }
  return found;
}

function notice(words, choose = false) {
  $("notice").hidden = !words;
  $("message").textContent = words;
  $("chooser").hidden = !choose;
}

// Verdicts

function mark() {
  const verdict = reviews.get(current?.name)?.verdict;
  for (const name of ["accept", "reject"]) $(name).ariaPressed = verdict === name;
  list();
}

function keep(sample, review) {
  if (review) reviews.set(sample, review);
  else reviews.delete(sample);
  mark();
}

// At once on the page; to the server one after another, since a note must not overtake its verdict.
function decide(verdict) {
  if (!current) return;
  const sample = current.name;
  const note = $("note").value.split(/\s+/).filter(Boolean).join(" ");
  const before = reviews.get(sample);
  keep(sample, verdict && {verdict, note});
  if (!files.save) return offer();
  tell("Saving ...");
  saving = saving.then(() => files.save(sample, {verdict, note})).then(
    () => tell("Saved in qc/review.csv."),
    error => {
      keep(sample, before);
      tell(`Not saved: ${error.message}`, "error");
    });
}

function tell(words, kind = "soft") {
  $("saved").textContent = words;
  $("saved").className = kind;
}

// From a chosen folder the table can only be handed out.
function offer() {
  unsaved = true;
  tell("Not saved: download the table and put it into the folder qc of the results.");
  URL.revokeObjectURL($("download").href);
  $("download").href = URL.createObjectURL(new Blob([writeReviews()], {type: "text/csv"}));
  $("download").hidden = false;
}

// Start

async function begin(source) {
  files = source;
  samples = collect(await files.list());
  reviews = parseReviews(await text("qc/review.csv") ?? "");
  filter();
  if (!samples.length) return false;
  const wanted = decodeURIComponent(location.hash.slice(1));
  open(samples.find(sample => sample.name === wanted) ?? samples.find(sample => sample.host === wanted) ?? samples[0]);
  return true;
}

const KEYS = {
  n: () => step(1),
  p: () => step(-1),
  l: () => $("label").click(),
  h: () => choose(document.querySelector("#views [aria-pressed=true]").dataset.view === "host" ? "sample" : "host"),
  b: () => choose("both"),
  m: () => {
    const box = $("modality");
    box.selectedIndex = (box.selectedIndex + 1) % box.options.length;
    box.onchange();
  },
  a: () => decide("accept"),
  r: () => { decide("reject"); $("note").focus(); },
  u: () => decide(""),
  t: () => $("note").focus(),
};

// Before NiiVue, which has keys of its own.
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input:not([type=range], [type=checkbox]), select, textarea");
  if (typing) {
    if (event.key === "Enter" && event.target === $("note")) {
      decide(reviews.get(current?.name)?.verdict ?? "");
      $("note").blur();
    }
    if (event.key === "Escape") event.target.blur();
  } else if (KEYS[event.key] && shown.volume) {
    event.preventDefault();
    KEYS[event.key]();
  }
  if (!typing) event.stopImmediatePropagation();
}, {capture: true});

addEventListener("beforeunload", event => unsaved && event.preventDefault());
$("download").onclick = () => { unsaved = false; };
$("filter").oninput = filter;
$("previous").onclick = () => step(-1);
$("next").onclick = () => step(1);
$("label").onchange = $("opacity").oninput = draw;
$("modality").onchange = () => open(current, $("modality").value);
for (const button of document.querySelectorAll("#views button")) button.onclick = () => choose(button.dataset.view);
for (const name of ["accept", "reject"]) $(name).onclick = () => decide(name);
$("undo").onclick = () => decide("");
$("folder").onchange = async event => {
  if (!await begin(chosen(event.target.files))) {
    notice("No synthetic sample in that folder. Choose the results folder of a study: it holds fold-0_k-...", true);
  }
};

async function start() {
  for (const name of ["host", "sample"]) {
    views[name] = new niivue.Niivue(FINE);
    await views[name].attachTo(name);
    views[name].setSliceType(views[name].sliceTypeMultiplanar);
  }
  views.host.broadcastTo(views.sample);
  views.sample.broadcastTo(views.host);
  const server = served();
  const found = location.protocol.startsWith("http") && await fetch("samples.json").catch(() => null);
  if (found?.ok) {
    if (!await begin(server)) notice("No synthetic sample yet.");
  } else {
    notice("A page that is opened as a file may read nothing by itself. Choose the results folder of the study; "
      + "nothing is sent anywhere. Or run: tumorfab view RESULTS", true);
  }
}

start().catch(error => notice(`The viewer needs WebGL 2: ${error.message}`));
