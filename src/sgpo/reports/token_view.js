// tokenView(index, answerOf) draws the answers that index.answers names into the page's token view; answerOf(n) has the data of one.
// Numbers of tokens lie in arrays, one listener serves all.
const tokenView = (() => {
const THRESHOLDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10], NUMBERED = 4; // levels of colour; from this one on a number stands there
const LONGEST_NUMBERED = 24; // characters of a token beside which a number stands, on the same line
const MEASURES = {
  divergence: { name: "divergence dₜ", scale: "warm" },
  sft: { name: "SFT loss", scale: "blue" },
  entropy: { name: "entropy", scale: "green" },
};
let index = null, answerOf = null, answer = null, spans = [], stepOf = [], selected = -1, ranks = [], measure = "divergence";

const nats = (x) => (x >= 100 ? x.toFixed(0) : x >= 0.995 ? x.toFixed(2) : x >= 0.0005 ? x.toFixed(3) : x > 0 ? "<0.001" : "0");
const short = (x) => (x >= 10 ? x.toFixed(0) : x.toFixed(1));
const percent = (p) => (p >= 0.9995 ? "100 %" : p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 0.0005 ? `${(100 * p).toFixed(1)} %` : "<0.1 %");
const visible = (text) => text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/^ | $/g, "␣") || "·";
const levelOf = (x) => { let level = 0; while (level < THRESHOLDS.length && x >= THRESHOLDS[level]) level++; return level; };

function show(number) {
  answer = answerOf(number);
  byId("chosen").value = String(number);
  byId("previous").disabled = number === 0;
  byId("next").disabled = number === index.answers.length - 1;
  byId("problem").textContent = answer.problem;
  byId("strategy").textContent = answer.strategy;
  byId("facts").textContent = answer.facts.join(" · ");
  byId("wave").hidden = answer.delta === null; // nothing is masked
  byId("wave").textContent = `masked, dₜ > ${answer.delta}`;
  byId("warning").hidden = !answer.warning;
  byId("warning").textContent = answer.warning || "";
  ranks = answer.divergence.map((_, i) => i).sort((a, b) => answer.divergence[b] - answer.divergence[a] || a - b);
  selected = -1;
  drawAnswer();
  drawLargest();
  drawKinds();
  drawMap();
  if (ranks.length) select(ranks[0], false);
}

function drawAnswer() {
  const steps = answer.steps.map(([start, end]) => ({ start, end, kl: mean(answer.divergence, start, end), sft: mean(answer.sft, start, end) }));
  const most = Math.max(1e-9, ...steps.map((step) => Math.max(step.kl, step.sft)));
  const drawn = document.createDocumentFragment();
  spans = new Array(answer.texts.length);
  stepOf = new Array(answer.texts.length);
  steps.forEach((step, number) => {
    const row = element("div", "step");
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", `Step ${number + 1}: mean KL ${nats(step.kl)}, mean SFT loss ${nats(step.sft)} nats`);
    const words = element("div", "words");
    words.setAttribute("role", "presentation");
    const ends = endings(step);
    for (let i = step.start; i < step.end; i++) {
      let text = i >= ends ? answer.texts[i].trimEnd() : answer.texts[i];
      if (i === step.start) text = text.trimStart(); // each step begins at the margin, and on a line of its own
      if (/^ [^\s]/.test(text)) { // outside, so that no colour hangs where a line is broken
        words.append(" ");
        text = text.slice(1);
      }
      const span = (spans[i] = element("span", "", text));
      if (!text && !answer.parts[i]) span.dataset.blank = "↵";
      span.dataset.i = i;
      span.id = `t${i}`;
      span.setAttribute("role", "option");
      stepOf[i] = number;
      words.append(span);
    }
    row.append(words, bars(step, most));
    // About as high as its text will be, so that scrolling is even before it is drawn.
    const length = step.end - step.start;
    row.style.containIntrinsicSize = `auto ${Math.max(3, Math.ceil(length / 22) * 2)}rem`;
    drawn.append(row);
  });
  byId("answer").replaceChildren(drawn);
  colour();
}

// The last token of a step with anything to see; those from there on lose their line feeds.
function endings(step) {
  let i = step.end - 1;
  while (i > step.start && !answer.texts[i].trim() && !answer.parts[i]) i--;
  return answer.texts[step.end - 1].includes("\n") ? i : step.end;
}

function mean(values, start, end) {
  let sum = 0;
  for (let i = start; i < end; i++) sum += values[i];
  return sum / Math.max(1, end - start);
}

function bars(step, most) {
  const both = element("div", "bars");
  both.setAttribute("aria-hidden", "true");
  for (const [name, value] of [["first", step.kl], ["second", step.sft]]) {
    const row = element("div"), bar = element("i", name);
    bar.style.width = `${(100 * value) / most}%`;
    row.append(bar, element("span", "", nats(value)));
    both.append(row);
  }
  return both;
}

function colour() {
  const values = answer[measure], { name, scale } = MEASURES[measure];
  for (const place of [byId("answer"), byId("shades")]) place.dataset.scale = scale;
  const masked = new Set(answer.masked), special = new Set(answer.special);
  spans.forEach((span, i) => {
    const level = levelOf(values[i]);
    span.className = `l${level}${masked.has(i) ? " masked" : ""}${special.has(i) ? " special" : ""}${i === selected ? " selected" : ""}`;
    if (level >= NUMBERED && answer.texts[i].length <= LONGEST_NUMBERED) span.dataset.n = short(values[i]);
    else delete span.dataset.n;
  });
  const shades = byId("shades");
  shades.setAttribute("aria-label", `Colours of ${name} in nats, from 0 to ${THRESHOLDS.at(-1)} and more`);
  shades.replaceChildren(...["0", ...THRESHOLDS].map((from, level) => element("span", `l${level}`, level === THRESHOLDS.length ? `≥${from}` : from)));
}

function drawLargest() {
  const coloured = ranks.filter((i, rank) => !rank || answer.divergence[i] >= THRESHOLDS[0]);
  byId("largest").replaceChildren(...coloured.slice(0, 8).map((i) => {
    const button = element("button");
    button.append(element("b", "", visible(answer.texts[i])), ` ${nats(answer.divergence[i])}`);
    button.addEventListener("click", () => { select(i); byId("answer").focus({ preventScroll: true }); });
    return button;
  }));
}

function drawKinds() {
  const table = element("div", "share");
  for (const [label, shares] of [["of tokens", answer.kinds.tokens], ["of dₜ", answer.kinds.divergence], ["of SFT loss", answer.kinds.sft]]) {
    const stack = element("div", "stack"), texts = [];
    for (const [kind, share] of Object.entries(shares)) {
      const part = element("span", kind, share > 0.17 ? `${kind} ${percent(share)}` : share > 0.07 ? percent(share) : "");
      part.style.width = `${100 * share}%`;
      part.title = `${kind} ${percent(share)}`;
      texts.push(part.title);
      stack.append(part);
    }
    stack.setAttribute("role", "img");
    stack.setAttribute("aria-label", `${label}: ${texts.join(", ")}`);
    table.append(element("span", "", label), stack);
  }
  const key = element("div", "key");
  key.append(...Object.keys(answer.kinds.tokens).map((kind) => element("span", kind, kind)));
  byId("kinds").replaceChildren(table, key);
}

let strip = null; // the bars of all tokens, drawn once for an answer, a width and a theme

function drawStrip(width, height, ratio) {
  const canvas = Object.assign(document.createElement("canvas"), { width: width * ratio, height: height * ratio });
  const paint = canvas.getContext("2d"), look = getComputedStyle(document.documentElement), each = width / answer.texts.length;
  paint.scale(ratio, ratio);
  const wide = barWidth(each), masked = new Set(answer.masked);
  const tall = (x) => Math.max(0, Math.min(1, (Math.log10(Math.max(x, 1e-9)) + 3) / 4.3)) * (height - 8); // from 0.001 nats
  answer.divergence.forEach((value, i) => {
    const size = tall(value);
    paint.globalAlpha = 0.25 + (0.75 * size) / height;
    paint.fillStyle = look.getPropertyValue("--first");
    paint.fillRect(i * each, height - size, wide, size);
    if (!masked.has(i)) return;
    paint.globalAlpha = 1;
    paint.fillStyle = look.getPropertyValue("--second");
    paint.fillRect(i * each, 0, wide, 3);
  });
  return canvas;
}

const barWidth = (each) => Math.max(1, Math.min(14, each - (each > 3 ? 1 : 0)));

function drawMap(anew = true) {
  const canvas = byId("map"), width = canvas.clientWidth, height = 52, ratio = window.devicePixelRatio || 1;
  if (!answer || !width) return;
  if (anew || !strip) {
    strip = drawStrip(width, height, ratio);
    Object.assign(canvas, { width: width * ratio, height: height * ratio });
  }
  const paint = canvas.getContext("2d");
  paint.clearRect(0, 0, canvas.width, canvas.height);
  paint.drawImage(strip, 0, 0);
  if (selected < 0) return;
  const each = width / answer.texts.length;
  paint.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
  paint.fillRect(Math.max(0, selected * each + barWidth(each) / 2 - 1) * ratio, 0, 2 * ratio, height * ratio);
}

function select(i, scroll = true) {
  i = Math.max(0, Math.min(answer.texts.length - 1, i));
  if (scroll) byId("detail").classList.remove("closed");
  if (i === selected) {
    if (scroll) bringIntoView(spans[i]);
    return;
  }
  if (selected >= 0) {
    spans[selected].classList.remove("selected");
    spans[selected].removeAttribute("aria-selected");
    spans[selected].closest(".step").classList.remove("current");
  }
  selected = i;
  spans[i].classList.add("selected");
  spans[i].setAttribute("aria-selected", "true");
  spans[i].closest(".step").classList.add("current");
  byId("answer").setAttribute("aria-activedescendant", `t${i}`);
  if (scroll) bringIntoView(spans[i]);
  drawDetail(i);
  drawMap(false);
}

function bringIntoView(span) {
  span.scrollIntoView({ block: "nearest" });
  // Steps on the way had estimated heights until they were drawn.
  requestAnimationFrame(() => span.scrollIntoView({ block: "nearest" }));
}

function drawDetail(i) {
  const detail = byId("detail"), part = answer.parts[i], whole = part ? answer.texts[i - part[0] + 1] : answer.texts[i];
  const close = element("button", "close", "×");
  close.setAttribute("aria-label", "Close");
  close.addEventListener("click", () => detail.classList.add("closed"));
  const place = [`token ${i + 1} of ${answer.texts.length}`, `step ${stepOf[i] + 1}`];
  if (part) place.push(`part ${part[0]} of ${part[1]} of a character`);
  const value = element("div", "value");
  value.append(element("b", "number", nats(answer.divergence[i])), element("span", "muted", "nats, dₜ"));
  if (answer.masked.includes(i)) value.append(element("span", "above", `masked: above δ = ${answer.delta}`));
  const ways = [["without strategy", answer.p[i], "bare"], ["with strategy", answer.guided_p[i], "guided"]];
  if (answer.after_p) ways.push([`${index.other_label}, without`, answer.after_p[i], "after"]);
  const probabilities = element("div", "rows");
  for (const [name, p, side] of ways) probabilities.append(row(name, p, `${side}`));
  const two = element("div", "two");
  for (const [title, side, top, probs] of [
    ["without strategy", "bare", answer.top, answer.top_p], ["with strategy", "guided", answer.guided_top, answer.guided_top_p],
  ]) {
    const column = element("div"), rows = element("div", "rows");
    const size = top.length / answer.texts.length;
    for (let k = i * size; k < (i + 1) * size; k++) {
      const line = row(visible(answer.names[top[k]]), probs[k], side);
      line.firstChild.nextSibling.classList.add("code");
      if (top[k] === answer.own[i]) line.firstChild.nextSibling.classList.add("own");
      rows.append(line);
    }
    column.append(element("h3", "", title), rows);
    two.append(column);
  }
  const three = element("div", "three");
  for (const [name, x] of [["SFT loss", answer.sft[i]], ["entropy without", answer.entropy[i]], ["entropy with", answer.guided_entropy[i]]]) {
    const cell = element("div", "muted", name);
    cell.append(element("b", "number", nats(x)));
    cell.lastChild.style.color = "var(--ink)";
    three.append(cell);
  }
  detail.replaceChildren(close, element("div", "token", visible(whole)), element("p", "where muted", place.join(" · ")), value,
    element("h3", "", "probability of this token"), probabilities, three, two);
}

function row(name, p, side) {
  const line = element("div", side), bar = element("i");
  bar.style.width = `${100 * p}%`;
  line.append(bar, element("span", "name", name), element("span", "number", percent(p)));
  return line;
}

function stepBy(count) {
  const step = Math.max(0, Math.min(answer.steps.length - 1, stepOf[selected] + count));
  select(answer.steps[step][0]);
}

const KEYS = {
  ArrowRight: () => select(selected + 1),
  ArrowLeft: () => select(selected - 1),
  ArrowDown: () => stepBy(1),
  ArrowUp: () => stepBy(-1),
  Home: () => select(0),
  End: () => select(answer.texts.length - 1),
  n: () => select(ranks[Math.min(ranks.length - 1, ranks.indexOf(selected) + 1)]),
  p: () => select(ranks[Math.max(0, ranks.indexOf(selected) - 1)]),
};

// Listeners of an answer that is drawn; `show` may draw another one at any time.
function listen() {
  byId("measure").addEventListener("change", (event) => { measure = event.target.value; colour(); });
  byId("numbers").addEventListener("change", (event) => byId("answer").classList.toggle("numbered", event.target.checked));
  const tokenAt = (event) => { const span = event.target.closest("[data-i]"); return span ? Number(span.dataset.i) : -1; };
  let pinned = false; // by a click: then hovering changes nothing until the pointer clicks again
  byId("answer").addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse" && !pinned && tokenAt(event) >= 0) select(tokenAt(event), false);
  });
  byId("answer").addEventListener("click", (event) => {
    const i = tokenAt(event);
    if (i < 0) return;
    pinned = !(pinned && i === selected);
    select(i, false);
    byId("detail").classList.remove("closed");
  });
  byId("answer").addEventListener("keydown", (event) => {
    if (event.key === "Escape") pinned = false;
    const act = event.ctrlKey || event.metaKey || event.altKey ? null : KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    pinned = true;
    act();
  });
  byId("map").addEventListener("click", (event) => {
    select(Math.floor((event.offsetX / byId("map").clientWidth) * answer.texts.length));
  });
  new ResizeObserver(() => drawMap()).observe(byId("map"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawMap());
}

return (givenIndex, givenAnswerOf) => {
  [index, answerOf] = [givenIndex, givenAnswerOf];
  byId("explained").textContent = index.explained;
  byId("chooser").hidden = index.answers.length < 2;
  index.answers.forEach((label, i) => byId("chosen").append(new Option(label, String(i))));
  for (const [key, { name }] of Object.entries(MEASURES)) byId("measure").append(new Option(name, key));
  byId("answer").classList.add("numbered");
  byId("chosen").addEventListener("change", (event) => show(Number(event.target.value)));
  byId("previous").addEventListener("click", () => show(Number(byId("chosen").value) - 1));
  byId("next").addEventListener("click", () => show(Number(byId("chosen").value) + 1));
  listen();
  show(0);
};
})();
