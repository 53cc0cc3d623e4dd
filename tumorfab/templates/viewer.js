// The page: list, views, panel, verdicts and keys.

const $ = id => document.getElementById(id);
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
let asked = 0;             // how often something was to be saved
let unsaved = false;       // whether a verdict would be lost with the page
const views = {};          // the two NiiVue instances

// The list

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

function draw() {
  const opacity = $("label").checked ? Number($("opacity").value) : 0;
  for (const [name, view] of Object.entries(views)) {
    const back = name === "host" ? shown.host : shown.volume;
    if (!back || $(`${name}-view`).hidden) continue;
    shown.label.opacity = opacity;
    if (view.volumes[0] === back && view.volumes[1] === shown.label) {
      view.setOpacity(1, opacity);
    } else {
      view.volumes = [back];  // adding both would send them to the card twice
      view.addVolume(shown.label);
    }
  }
}

// Brings the tumour into all planes, and its side of the head to the front.
function look() {
  for (const view of Object.values(views)) {
    if (!view.volumes.length) continue;
    view.scene.crosshairPos = view.mm2frac(shown.mm);
    view.scene.renderAzimuth = shown.mm[0] < shown.middle ? 110 : 250;
    view.setPan2Dxyzmm(shown.frame);
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
    const [found, sidecar] = await Promise.all([load(files, sample, modality), text(files, `${sample.name}.json`)]);
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
  const mine = ++asked;
  saving = saving.then(() => files.save(sample, {verdict, note})).then(
    () => mine === asked && tell("Saved in qc/review.csv."),
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
  $("download").href = URL.createObjectURL(new Blob([writeReviews(reviews)], {type: "text/csv"}));
  $("download").hidden = false;
}

// Start

async function begin(source) {
  files = source;
  samples = collect(await files.list());
  reviews = parseReviews(await text(files, "qc/review.csv") ?? "");
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
