"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);

// --- players: one clip at a time ---

let playing = null;

function say(text) {
  const status = one("#status");
  if (status) status.textContent = text;
}

for (const audio of all("audio")) {
  audio.addEventListener("play", () => {
    for (const other of all("audio")) if (other !== audio) other.pause();
    playing = audio;
    audio.closest(".clip").classList.add("playing");
    say(`playing ${audio.getAttribute("aria-label")}`);
  });
  for (const event of ["pause", "ended"])
    audio.addEventListener(event, () => audio.closest(".clip").classList.remove("playing"));
}

function play(audio, from = 0) {
  if (audio.currentTime !== from) audio.currentTime = from;
  return audio.play();
}

function stop() {
  queue = [];
  for (const audio of all("audio")) audio.pause();
  const button = one("#play-all");
  if (button) button.textContent = "Play all";
}

// --- play all ---

let queue = [];

function playNext() {
  const audio = queue.shift();
  if (!audio) return stop();
  audio.closest("article").scrollIntoView({ block: "nearest" });
  audio.addEventListener("ended", () => queue !== null && playNext(), { once: true });
  play(audio);
}

one("#play-all")?.addEventListener("click", (event) => {
  if (queue.length || (playing && !playing.paused)) return stop();
  queue = all("#sentences audio");
  event.target.textContent = "Stop";
  playNext();
});

// --- order of the sentences ---

const SIGNS = { improved: 1, worsened: -1 };
const cards = all(".sentence").map((card) => ({ card, errors: card.dataset.errors.split(" ").map(Number) }));

function sortSentences() {
  const [order, version] = one("#order").value.split(" ");
  const change = (errors) => errors[version] - (order in SIGNS ? errors[0] : 0);
  const sign = SIGNS[order] ?? -1;
  const sorted = [...cards].sort((a, b) => sign * (change(a.errors) - change(b.errors)));
  one("#sentences").append(...sorted.map(({ card }) => card));
}

one("#order")?.addEventListener("change", sortSentences);
if (one("#order")) sortSentences();

// --- keys ---

let current = null; // sentence

function choose(card) {
  current = card;
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest" });
}

for (const card of all(".sentence")) card.addEventListener("focusin", () => (current = card));

function move(by) {
  const cards = all(".sentence");
  const place = cards.indexOf(current) + by;
  if (cards.length) choose(cards[Math.min(Math.max(place, 0), cards.length - 1)]);
}

function hop(number) {
  if (!current) move(1);
  const audio = current && one(`[data-version="${number}"] audio`, current);
  if (!audio) return;
  const goesOn = playing && !playing.paused && playing !== audio && current.contains(playing) && number > 0;
  play(audio, goesOn ? Math.min(playing.currentTime, audio.duration || 0) : 0);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const key = event.key.toLowerCase();
  if (key === "escape") stop();
  else if (trial && blindKey(key)) return;
  else if (key === "j") move(1);
  else if (key === "k") move(-1);
  else if (/^[0-9]$/.test(key)) hop(+key);
});

// --- blind comparison ---

let trial = null; // the sentence that is being compared
let trials = [];
let answers = [];

function shuffled(items) {
  const result = [...items];
  for (let last = result.length - 1; last > 0; last--) {
    const other = Math.floor(Math.random() * (last + 1));
    [result[last], result[other]] = [result[other], result[last]];
  }
  return result;
}

function side(card, version) {
  const clip = one(`[data-version="${version}"]`, card);
  return { model: clip.dataset.title, file: clip.dataset.file, source: one("audio", clip).src };
}

one("#blind-form")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const { one: first, other: second } = event.target.elements;
  one("#blind-download").hidden = true;
  if (first.value === second.value) {
    one("#blind-result").textContent = "Choose two different models.";
    return;
  }
  one("#blind-result").textContent = "";
  answers = [];
  trials = shuffled(all(".sentence")).map((card) => {
    const [a, b] = shuffled([side(card, first.value), side(card, second.value)]);
    return { card, a, b, prompt: one('[data-version="0"] audio', card)?.src };
  });
  nextTrial();
});

function nextTrial() {
  blindAudio.pause();
  trial = trials[answers.length] ?? null;
  one("#blind-round").hidden = !trial;
  if (!trial) return showResult();
  one("#blind-progress").textContent = `Sentence ${answers.length + 1} of ${trials.length}`;
  one("#blind-text").textContent = trial.card.dataset.text;
  one('[data-play="prompt"]').hidden = !trial.prompt;
  one("#blind-text").focus();
}

const blindAudio = new Audio();

function playSide(name) {
  stop();
  const source = name === "prompt" ? trial.prompt : trial[name].source;
  if (!source) return;
  blindAudio.src = source;
  blindAudio.play();
}

function answer(choice) {
  const { id, text, prompt, promptText } = trial.card.dataset;
  const record = { id, prompt, prompt_text: promptText, text, chosen: null, rejected: null };
  if (choice === "tie") Object.assign(record, { tie: [trial.a.file, trial.b.file], models: [trial.a.model, trial.b.model] });
  else {
    const [better, worse] = choice === "a" ? [trial.a, trial.b] : [trial.b, trial.a];
    Object.assign(record, { chosen: better.file, rejected: worse.file, models: [better.model, worse.model] });
  }
  answers.push(record);
  nextTrial();
}

function blindKey(key) {
  const plays = { 0: "prompt", 1: "a", 2: "b" };
  if (key in plays) playSide(plays[key]);
  else if (key === "a" || key === "b") answer(key);
  else if (key === "t") answer("tie");
  else return false;
  return true;
}

for (const button of all("[data-play]")) button.addEventListener("click", () => playSide(button.dataset.play));
for (const button of all("[data-answer]")) button.addEventListener("click", () => answer(button.dataset.answer));

// Interval of a fraction (Wilson 1927).
function wilson(wins, count, z = 1.96) {
  const share = wins / count;
  const center = share + (z * z) / (2 * count);
  const half = z * Math.sqrt((share * (1 - share)) / count + (z * z) / (4 * count * count));
  return [center - half, center + half].map((bound) => bound / (1 + (z * z) / count));
}

function showResult() {
  const { one: first, other: second } = one("#blind-form").elements;
  const [name, other] = [first, second].map((select) => select.selectedOptions[0].textContent);
  const decided = answers.filter((record) => record.chosen);
  const wins = decided.filter((record) => record.models[0] === name).length;
  const ties = answers.length - decided.length;
  let text = `${name} ${wins}, ${other} ${decided.length - wins}, ties ${ties}.`;
  if (decided.length) {
    const [low, high] = wilson(wins, decided.length).map((bound) => Math.round(100 * bound));
    const clear = low > 50 || high < 50 ? "" : " The interval holds 50 %: no clear preference.";
    text += ` ${name} was preferred in ${Math.round((100 * wins) / decided.length)} % of the decided sentences (95 % interval ${low} to ${high} %).${clear}`;
  }
  one("#blind-result").textContent = text;
  const lines = answers.map((record) => JSON.stringify(record) + "\n").join("");
  const link = one("#blind-download");
  link.href = URL.createObjectURL(new Blob([lines], { type: "application/jsonl" }));
  link.download = "preferences.jsonl";
  link.hidden = false;
}
