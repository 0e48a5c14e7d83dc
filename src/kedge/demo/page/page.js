"use strict";
const at = (id) => document.getElementById(id);
const percent = (p) => (p >= 0.9995 && p < 1 ? "> 99.9 %" : `${(100 * p).toFixed(1)} %`);
let largest = Infinity; // bytes
let maps = true; // whether there are any
let number = 0; // of the photo in work: what belongs to an earlier one is dropped

function show(id, text) {
  at(id).textContent = text ?? "";
  at(id).hidden = !text;
}

function picture(address, words) {
  const image = document.createElement("img");
  image.src = address;
  image.alt = words;
  return image;
}

function fail(words) {
  at("result").hidden = at("empty").hidden = at("maprow").hidden = at("stage").hidden = true;
  show("error", words);
}

let waiting = null; // what ends the wait for a map

async function ask(path, photo, signal) {
  let reply;
  try {
    const headers = { "Content-Type": "application/octet-stream" };
    reply = await fetch(path, { method: "POST", body: photo, headers, signal });
  } catch {
    throw new Error("The page's server does not answer: is kedge demo still running?");
  }
  const said = await reply.json();
  if (!reply.ok) throw new Error(said.error);
  return said;
}

async function take(photo) {
  const mine = ++number;
  waiting?.abort();
  if (photo.size > largest) {
    fail(`The photo has ${Math.ceil(photo.size / 2 ** 20)} MB, and at most ${largest >> 20} are read.`);
    return;
  }
  show("error", "");
  document.body.classList.add("busy");
  show("hint", "Looking at the photo …");
  try {
    const said = await ask("/answer", photo);
    if (mine !== number) return;
    tell(said);
    map(photo, mine);
  } catch (error) {
    if (mine === number) fail(`${error.message[0].toUpperCase()}${error.message.slice(1)}`);
  } finally {
    if (mine === number) {
      document.body.classList.remove("busy");
      show("hint", "Drop another photo here, or paste one.");
    }
  }
}

function showMap() {
  const shown = at("showmap").checked && at("map").hasAttribute("src");
  at("map").hidden = !shown;
  at("view").classList.toggle("grey", shown);
}

async function map(photo, mine) {
  at("map").removeAttribute("src");
  showMap();
  if (!maps) return;
  at("maprow").hidden = false;
  show("mapwords", "The map is being computed …");
  try {
    waiting = new AbortController();
    const said = await ask("/map", photo, waiting.signal);
    if (mine !== number) return;
    at("map").src = said.map;
    showMap();
    show("mapwords", `Orange speaks for “${said.label}”, blue against it: how the answer changes when the place is covered (${said.seconds.toFixed(1)} s).`);
  } catch (error) {
    if (mine === number) show("mapwords", `No map: ${error.message}`);
  }
}

function tell(said) {
  at("empty").hidden = true;
  at("result").hidden = at("stage").hidden = false;
  at("view").src = said.view;
  at("answer").textContent = said.answer;
  at("answer").classList.toggle("held", said.why !== null);
  const sure = `${percent(said.confidence)} confidence`;
  at("confidence").textContent = said.why === null ? sure : `Nearest class: ${said.label}, ${sure}`;
  show("why", said.why);
  at("classes").tBodies[0].replaceChildren(...said.classes.map(row));
  references(said);
  similar(said);
  show("seconds", `Answered in ${said.seconds < 1 ? `${Math.round(1000 * said.seconds)} ms` : `${said.seconds.toFixed(1)} s`}.`);
}

function row(each) {
  const line = document.createElement("tr");
  const meter = document.createElement("meter");
  meter.value = each.confidence;
  meter.setAttribute("aria-label", `${each.label}: ${percent(each.confidence)}`);
  for (const content of [each.label, meter, percent(each.confidence)]) {
    line.insertCell().append(content);
  }
  return line;
}

function references(said) {
  const all = said.references;
  at("references").hidden = all === null;
  if (all === null) return;
  at("refhead").textContent = all.of === "references" ? "References" : "Members";
  const spread = said.uncertainty === null ? "" : ` Uncertainty from their disagreement: ${said.uncertainty.toFixed(4)}.`;
  at("refwords").textContent = (all.agree === all.all
    ? `All ${all.all} ${all.of} answer “${said.label}” by themselves.`
    : `${all.agree} of ${all.all} ${all.of} answer “${said.label}” by themselves.`) + spread;
  at("others").replaceChildren(...all.others.map((other) => {
    const item = document.createElement("li");
    const words = document.createElement("div");
    words.textContent = `${other.count} ${other.count === 1 ? "answers" : "answer"} “${other.label}”`;
    item.append(words, ...other.images.map((image) => picture(image, `a reference with which the answer is ${other.label}`)));
    return item;
  }));
}

function similar(said) {
  at("similar").hidden = said.similar === null;
  at("alike").replaceChildren(...(said.similar ?? []).map((each) => {
    const item = document.createElement("li");
    item.append(picture(each.image, `a training photo of ${each.label}`), `${each.label}, ${each.likeness.toFixed(2)}`);
    return item;
  }));
}

function pick(data, what) {
  const file = [...data.files].find((each) => each.type.startsWith("image/") || each.type === "") ?? data.files[0];
  if (file) take(file);
  else fail(`What was ${what} is no file. The page fetches nothing: save the photo first, then ${what === "pasted" ? "copy" : "drag"} the file.`);
}

let stream = null;
function stop() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  at("video").hidden = at("snap").hidden = true;
  at("camera").textContent = "Camera";
}

async function camera() {
  if (stream) return stop();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  } catch (error) {
    const why = navigator.mediaDevices ? error.message : "browsers give it to https and to this machine alone";
    return fail(`There is no camera to be had: ${why}.`);
  }
  at("video").srcObject = stream;
  at("stage").hidden = true;
  at("video").hidden = at("snap").hidden = false;
  at("camera").textContent = "Close the camera";
  at("snap").focus();
}

function snap() {
  const video = at("video");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  stop();
  canvas.toBlob((photo) => photo && take(photo), "image/png");
  at("camera").focus();
}

async function begin() {
  const about = await (await fetch("/about")).json();
  largest = about.largest;
  maps = about.map;
  document.title = `${about.name} – kedge demo`;
  at("name").textContent = about.name;
  const named = about.classes.slice(0, 12).join(", ");
  const more = about.classes.length > 12 ? ` and ${about.classes.length - 12} more` : "";
  const bank = about.references ? ` Anchored, ${about.references} references.` : "";
  const unknown = about.unknown_where === null ? "" : ` Where ${about.unknown_where}, a photo is none of them: unknown.`;
  const unsure = about.unsure_below === null ? "" : ` Below a confidence of ${about.unsure_below} it is unsure.`;
  const rule = unknown + unsure || " It answers always: no threshold is set.";
  at("about").textContent = `${about.classes.length} classes: ${named}${more}.${bank}${rule}`;
  if (about.similar) {
    const { looked_at: some, of } = about.similar;
    show("simwords", `Of ${some === of ? `its ${of}` : `${some} of its ${of}`} training photos, by what the last layer reads; 1 is the same.`);
  }
}

at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  if (at("file").files.length) take(at("file").files[0]);
  at("file").value = "";
});
at("camera").addEventListener("click", camera);
at("snap").addEventListener("click", snap);
at("showmap").addEventListener("change", showMap);
document.addEventListener("paste", (event) => pick(event.clipboardData, "pasted"));
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); at("drop").classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  pick(event.dataTransfer, "dropped");
});
begin();
