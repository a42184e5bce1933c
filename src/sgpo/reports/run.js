const report = read("report");
const several = report.runs.length > 1, COLORS = 6, DASHES = ["", "6 4", "2 4", "9 3 2 3"], PAGE = 30;
const WIDTH = 400, HEIGHT = 180, LEFT = 40, RIGHT = 8, TOP = 8, BOTTOM = 22;
const hidden = new Set(), redraw = [];
const color = (number) => `var(--c${number % COLORS})`;

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  return made;
}
const percent = (x, digits = 1) => `${(100 * x).toFixed(digits)}\u00a0%`;
const signed = (x) => `${x > 0 ? "+" : x < 0 ? "−" : ""}${Math.abs(100 * x).toFixed(0)}`;
const number = (x) => (x === 0 ? "0" : Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en") : Math.abs(x) >= 100 ? x.toFixed(0)
  : Math.abs(x) >= 0.001 ? String(+x.toPrecision(3)) : x.toExponential(1));
const duration = (s) => (s >= 5400 ? `${(s / 3600).toFixed(1)} h` : s >= 90 ? `${(s / 60).toFixed(1)} min` : `${s.toFixed(0)} s`);
const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many || one + "s"}`;

function head() {
  byId("title").textContent = report.runs.map((run) => run.name).join(" · ");
  byId("subtitle").textContent = report.runs.map((run) => `${several ? run.name + ": " : ""}${run.method.toUpperCase()}, ${count(run.updates, "update")}` +
    `${run.finished ? "" : `, not finished as of ${new Date(1000 * report.written).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}`}${run.seconds ? `, ${duration(run.seconds)}` : ""}`).join(" · ");
  for (const section of document.querySelectorAll("main > section[aria-labelledby]")) {
    if (section.hidden) continue;
    const link = element("a", "", section.querySelector("h2").textContent);
    link.href = `#${section.id}`;
    byId("sections").append(link);
  }
}

function tiles() {
  const add = (value, words) => { const tile = element("div", "tile"); tile.append(element("b", "", value), element("span", "", words)); byId("tiles").append(tile); };
  const prefix = (run) => (several ? `${run.name}: ` : "");
  if (!several) {
    add(report.runs[0].updates.toLocaleString("en"), report.runs[0].finished ? "updates" : "updates so far");
    if (report.runs[0].seconds) add(duration(report.runs[0].seconds), "of training");
  }
  for (const score of report.scores.slice(-4)) add(percent(score.mean), `${score.label}${score.interval ? `, ${percent(score.interval[0], 0)} to ${percent(score.interval[1], 0)}` : ""}`);
  report.runs.forEach((run, n) => {
    const rewards = report.charts.find((chart) => chart.title === "Reward");
    const line = rewards && rewards.lines.find((each) => each.run === n && each.place === 0);
    if (line) {
      const tenth = Math.max(1, Math.floor(line.y.length / 10)), mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
      add(`${mean(line.y.slice(0, tenth)).toPrecision(2)} → ${mean(line.y.slice(-tenth)).toPrecision(2)}`, `${prefix(run)}autonomous reward, first and last tenth`);
    }
    if (run.both) add(`${run.unlocked} of ${run.both}`, `${prefix(run)}sampled problems unlocked by guidance`);
  });
}

function scores() {
  byId("scores-section").hidden = !report.scores.length;
  for (const score of report.scores) {
    const row = element("div", "score"), label = element("div", "", score.label), track = element("div", "track"), value = element("div", "number");
    label.append(element("small", "", score.detail));
    track.setAttribute("aria-hidden", "true");
    mark(track, score.mean, score.interval, 0, 1);
    value.append(element("b", "", percent(score.mean)));
    if (score.interval) value.append(element("small", "", `${percent(score.interval[0])} to ${percent(score.interval[1])}`));
    row.append(label, track, value);
    byId("scores").append(row);
  }
}
function mark(track, mean, interval, low, high) {
  const place = (x) => `${(100 * (x - low)) / (high - low)}%`;
  if (low < 0) { const zero = element("span", "zero"); zero.style.left = place(0); track.append(zero); }
  if (interval) { const bar = element("i"); bar.style.left = place(interval[0]); bar.style.width = `${(100 * (interval[1] - interval[0])) / (high - low)}%`; track.append(bar); }
  const dot = element("b"); dot.style.left = place(mean); track.append(dot);
}

function smoothed(values) { // means over a centred window of about a sixth of the run
  const half = Math.floor(values.length / 12), sums = [0];
  for (const value of values) sums.push(sums[sums.length - 1] + value);
  return values.map((_, i) => { const a = Math.max(0, i - half), b = Math.min(values.length, i + half + 1); return (sums[b] - sums[a]) / (b - a); });
}
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((each) => each >= rough);
  const found = [];
  for (let x = Math.ceil(low / step - 1e-9) * step; x <= high + step * 1e-9; x += step) found.push(Math.abs(x) < step * 1e-9 ? 0 : x);
  return found;
}
const tickText = (x) => (Math.abs(x) >= 10000 ? `${+(x / 1000).toPrecision(4)}k` : Math.abs(x) > 0 && Math.abs(x) < 0.001 ? x.toExponential(0) : String(+x.toPrecision(6)));
function path(xs, ys) { return xs.map((x, i) => `${i ? "L" : "M"}${x.toFixed(1)} ${ys[i].toFixed(1)}`).join(""); }

function drawChart(chart) {
  const figure = element("figure", "card chart"), caption = element("figcaption"), legend = element("ul", "legend");
  caption.append(element("h3", "", chart.title), element("span", "", chart.unit));
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: "0", role: "img" });
  figure.append(caption, legend, picture);
  byId("charts").append(figure);
  const groups = new Set(chart.lines.map((line) => line.place)).size;
  const lines = chart.lines.filter((line) => !several || line.place < 2).map((line) => ({ ...line, mean: smoothed(line.y), color: color(several ? line.run : line.place),
    dash: several ? DASHES[line.place % DASHES.length] : "",
    name: [several ? report.runs[line.run].name : "", several && groups === 1 ? "" : line.words].filter(Boolean).join(", ") }));
  let at = null, steps = [], toX, toY;
  const cursor = svg("g");
  function draw() {
    picture.replaceChildren();
    const shown = lines.filter((line) => !hidden.has(line.run)), xs = shown.flatMap((line) => line.x), ys = shown.flatMap((line) => line.y);
    steps = [...new Set(xs)].sort((a, b) => a - b);
    if (!steps.length) { legend.replaceChildren(); return; }
    let first = steps[0], last = steps[steps.length - 1];
    if (first === last) { first -= 1; last += 1; }
    const low = Math.min(0, ...ys), most = Math.max(...ys), high = chart.top && most > 0.6 * chart.top ? chart.top : most > low ? low + (most - low) * 1.05 : low + 1;
    toX = (x) => LEFT + ((x - first) / (last - first)) * (WIDTH - LEFT - RIGHT);
    toY = (y) => HEIGHT - BOTTOM - ((y - low) / (high - low)) * (HEIGHT - BOTTOM - TOP);
    for (const y of ticks(low, high, 5)) {
      picture.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: toY(y), y2: toY(y) }));
      const text = svg("text", { x: LEFT - 6, y: toY(y) + 4, "text-anchor": "end" }); text.textContent = tickText(y); picture.append(text);
    }
    for (const x of ticks(first, last, 5).filter(Number.isInteger)) {
      const text = svg("text", { x: toX(x), y: HEIGHT - 5, "text-anchor": x > last - (last - first) / 20 ? "end" : "middle" }); text.textContent = tickText(x); picture.append(text);
    }
    for (const line of shown) {
      const x = line.x.map(toX), style = `--c:${line.color}`, smooth = line.y.length >= 12;
      if (smooth) picture.append(svg("path", { class: "line faint", d: path(x, line.y.map(toY)), style }));
      const strong = svg("path", { class: "line", d: path(x, (smooth ? line.mean : line.y).map(toY)), style, "stroke-dasharray": line.dash });
      picture.append(strong);
      if (!smooth) line.x.forEach((_, i) => picture.append(svg("circle", { class: "dot", r: 3, cx: x[i], cy: toY(line.y[i]), style })));
    }
    picture.append(cursor);
    say();
  }
  function say() {
    const shown = lines.filter((line) => !hidden.has(line.run));
    legend.replaceChildren();
    cursor.replaceChildren();
    if (at !== null) cursor.append(svg("line", { class: "cursor", x1: toX(steps[at]), x2: toX(steps[at]), y1: TOP, y2: HEIGHT - BOTTOM }));
    for (const line of shown) {
      const item = element("li"), swatch = svg("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" });
      swatch.append(svg("path", { class: "line", d: "M1 4H21", style: `--c:${line.color}`, "stroke-dasharray": line.dash }));
      item.append(swatch, element("span", "", line.name));
      if (at !== null) {
        const i = line.x.indexOf(steps[at]);
        item.append(element("b", "", i < 0 ? "–" : number(line.y[i])));
        if (i >= 0) cursor.append(svg("circle", { class: "dot", r: 3.5, cx: toX(line.x[i]), cy: toY(line.y[i]), style: `--c:${line.color}` }));
      }
      legend.append(item);
    }
    const place = at === null ? "" : `update ${steps[at].toLocaleString("en")}`;
    caption.lastChild.textContent = place || chart.unit;
    picture.setAttribute("aria-label", `${chart.title}, ${chart.unit}. ${place} ${[...legend.children].map((item) => item.textContent).join("; ")}`);
  }
  const go = (place) => { if (!steps.length) return; at = place === null ? null : Math.max(0, Math.min(steps.length - 1, place)); say(); };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * WIDTH;
    let best = 0;
    steps.forEach((step, i) => { if (Math.abs(toX(step) - x) < Math.abs(toX(steps[best]) - x)) best = i; });
    go(best);
  });
  picture.addEventListener("pointerleave", () => go(null));
  picture.addEventListener("blur", () => go(null));
  picture.addEventListener("keydown", (event) => {
    const end = steps.length - 1, now = at === null ? end : at, far = Math.max(1, Math.round(steps.length / 10));
    const place = { ArrowRight: at === null ? 0 : now + 1, ArrowLeft: at === null ? end : now - 1, PageDown: now + far, PageUp: now - far, Home: 0, End: end }[event.key];
    if (event.key === "Escape") go(null);
    else if (place !== undefined) { event.preventDefault(); go(place); }
  });
  redraw.push(draw);
  draw();
}

function runButtons() {
  if (!several) return;
  byId("runs").hidden = false;
  report.runs.forEach((run, n) => {
    const button = element("button", "", run.name);
    button.type = "button";
    button.style.setProperty("--c", color(n));
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (!hidden.delete(n)) hidden.add(n);
      button.setAttribute("aria-pressed", String(!hidden.has(n)));
      redraw.forEach((draw) => draw());
    });
    byId("runs").append(button);
  });
}

function gains() {
  const some = report.runs.filter((run) => run.types.length);
  byId("gains-section").hidden = !some.length;
  byId("gains-note").textContent = "The gain of a strategy is p_guide − p_auto, in points: the share of correct completions with the strategy in the prompt, minus that " +
    "without. Unlocked are problems that were never solved alone and at least once with the strategy. Means over the problems of the kept tables; bars are 95 % intervals over problems.";
  report.runs.forEach((run, n) => {
    if (!run.types.length) return;
    const block = element("div", "card of-run"), table = element("table", "gaintable"), titles = element("tr");
    if (several) { const title = element("h3", "run", run.name); title.style.setProperty("--c", color(n)); block.append(title); }
    for (const [words, name] of [["Problem type", ""], ["problems", "number wide"], ["p_auto", "number wide"], ["p_guide", "number wide"], ["gain", "number"], ["", ""], ["unlocked", "number"]])
      titles.append(element("th", name, words));
    const most = Math.max(...run.types.map((row) => Math.max(Math.abs(row.gain), ...(row.interval || []).map(Math.abs)))) || 1;
    table.append(titles);
    for (const row of run.types) {
      const line = element("tr"), bar = element("td", "bar"), track = element("div", "track");
      track.setAttribute("aria-hidden", "true");
      mark(track, row.gain, row.interval, -most, most);
      bar.append(track);
      line.append(element("td", "", row.type), element("td", "number wide", String(row.problems)), element("td", "number wide", percent(row.auto, 0)),
        element("td", "number wide", percent(row.guided, 0)), element("td", "number", signed(row.gain)), bar, element("td", "number", row.unlocked || "–"));
      table.append(line);
    }
    block.append(table);
    if (run.types_left_out) block.append(element("p", "note", `${count(run.types_left_out, "type")} with smaller gains not shown.`));
    byId("gains").append(block);
  });
}

// A list of cards that a form filters: ids begin with `prefix`; `chosen` gives the problems of the form's values in order.
function searchable(prefix, place, problems, chosen, makeCard) {
  const search = byId(`${prefix}search`), more = byId(`${prefix}more`);
  let most = PAGE;
  function list() {
    const words = search.value.toLowerCase().trim(), found = chosen().filter((problem) => problem.all.includes(words));
    byId(place).replaceChildren(...found.slice(0, most).map((problem) => makeCard(problem, words)));
    byId(`${prefix}found`).textContent = found.length ? `${count(found.length, "problem")}${found.length > most ? `, ${most} shown` : ""}` : "Nothing fits: change the search or the filters.";
    more.hidden = found.length <= most;
    more.textContent = `Show ${Math.min(PAGE, found.length - most)} more`;
  }
  byId(`${prefix}filters`).addEventListener("input", () => { most = PAGE; list(); });
  byId(`${prefix}filters`).addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { const first = most; most += PAGE; list(); byId(place).children[first]?.querySelector("summary").focus(); });
  list();
}
function option(select, value, text) { const made = element("option", "", text); made.value = value; select.append(made); }
const searched = (problem, texts) => [problem.id, problem.prompt, problem.answer, ...texts].join("\n").toLowerCase();

function targets() {
  byId("targets-section").hidden = !report.targets.answers.length;
  if (!report.targets.answers.length) return;
  byId("targets-rule").textContent = report.targets.rule;
  tokenView(report.targets, (n) => read(`view-${n}`));
}

const change = (problem) => problem.answers[problem.answers.length - 1].share - problem.answers[0].share;
const CHANGES = {
  all: () => true, better: (problem) => change(problem) > 0, worse: (problem) => change(problem) < 0,
  never: (problem) => problem.answers.every((each) => each.share === 0),
};
function answers() {
  byId("answers-section").hidden = !report.answers.length;
  if (!report.answers.length) return;
  for (const problem of report.answers) problem.all = searched(problem, problem.answers.map((each) => each.text));
  byId("answers-rule").textContent = `${count(report.answers.length, "problem")} of ${report.answered.toLocaleString("en")} that all evaluations have. ${report.answers_rule}`;
  searchable("answers-", "answers", report.answers, () => report.answers.filter(CHANGES[byId("answers-which").value]), answerCard);
}
function answerCard(problem, words) {
  const rates = problem.answers.map((each, n) => element("span", n ? "next" : "", `${report.evaluations[n]} ${percent(each.share, 0)}`));
  return folded(problem.prompt, words, rates, () => inside([["Answer", problem.answer], ["Problem", `${problem.set}, ${problem.id}`]], words,
    problem.answers.map((each, n) => [report.evaluations[n], [each]])));
}

function filters() {
  byId("completions-section").hidden = !report.problems.length;
  option(byId("run"), "", "all");
  report.runs.forEach((run, n) => option(byId("run"), n, run.name));
  byId("run").parentNode.hidden = !several;
  option(byId("step"), "", "all");
  for (const step of [...new Set(report.problems.map((problem) => problem.step))].sort((a, b) => a - b)) option(byId("step"), step, step);
  for (const problem of report.problems) problem.all = searched(problem, [problem.strategy, ...problem.completions.map((each) => each.text)]);
  const sampled = report.runs.reduce((sum, run) => sum + run.sampled, 0);
  byId("rule").textContent = `${count(report.problems.length, "problem")} of ${sampled.toLocaleString("en")} in the tables of the ${several ? "runs" : "run"} ${report.problems.length === 1 ? "is" : "are"} here. ${report.rule}`;
  searchable("", "problems", report.problems, () => {
    const run = byId("run").value, step = byId("step").value;
    return report.problems.filter((problem) => (run === "" || problem.run === +run) && (step === "" || problem.step === +step) && WHICH[byId("which").value](problem))
      .sort(ORDER[byId("order").value]);
  }, card);
}
const WHICH = {
  all: () => true,
  unlocked: (problem) => problem.unlocked,
  target: (problem) => problem.completions.some((each) => each.target),
  wrong: (problem) => !problem.auto && !problem.guided,
  truncated: (problem) => problem.completions.some((each) => each.truncated),
};
const gainOf = (problem, none) => (problem.gain === null ? none : problem.gain);
const ORDER = {
  gain: (a, b) => gainOf(b, -9) - gainOf(a, -9), least: (a, b) => gainOf(a, 9) - gainOf(b, 9), step: (a, b) => a.step - b.step || a.run - b.run,
};
function marked(node, text, words) { // the text, with what was searched for marked
  const lower = text.toLowerCase();
  if (!words || lower.length !== text.length) { node.textContent = text; return node; }
  let from = 0;
  for (let at = lower.indexOf(words); at >= 0; at = lower.indexOf(words, from)) {
    node.append(text.slice(from, at), element("mark", "", text.slice(at, at + words.length)));
    from = at + words.length;
  }
  node.append(text.slice(from));
  return node;
}
function folded(prompt, words, rates, makeInside) {
  const details = element("details", "problem"), summary = element("summary"), right = element("div", "rates");
  right.append(...rates);
  summary.append(marked(element("span", "head"), prompt, words), right);
  details.append(summary);
  details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(makeInside()); });
  return details;
}
function card(problem, words) {
  const rates = [], share = (x) => (x === null ? "–" : percent(x, 0));
  if (several) { const tag = element("span", "tag", report.runs[problem.run].name); tag.style.borderColor = color(problem.run); rates.push(tag); }
  if (problem.unlocked) rates.push(element("span", "tag good", "unlocked"));
  rates.push(element("span", "", problem.guided === null ? `alone ${share(problem.auto)}` : `alone ${share(problem.auto)} → guided ${share(problem.guided)}`),
    element("span", "muted", `after ${count(problem.step, "update")}`));
  const titles = { autonomous: "Autonomous", guided: "Guided by the strategy" }, groups = [...new Set(problem.completions.map((each) => each.group))];
  const facts = [["Answer", problem.answer], ["Strategy", problem.strategy], ["Decision", problem.reason], ["Id", problem.id]];
  return folded(problem.prompt, words, rates, () => inside(facts, words,
    groups.map((group) => [titles[group] || group, problem.completions.filter((one) => one.group === group)])));
}
function inside(facts, words, columns) {
  const made = element("div", "inside"), list = element("dl"), pair = element("div", "pair");
  for (const [name, text] of facts) if (text) list.append(element("dt", "", name), marked(element("dd", "text"), text, words));
  for (const [title, completions] of columns) {
    const column = element("div");
    column.append(element("h2", "", title), ...completions.map((each) => completionBlock(each, words)));
    pair.append(column);
  }
  made.append(list, pair);
  return made;
}
function completionBlock(each, words) {
  const block = element("div", `completion ${each.correct ? "good" : "bad"}`), tags = element("div", "tags");
  tags.append(element("span", `tag ${each.correct ? "good" : "bad"}`, each.correct ? "✓ correct" : "✗ wrong"));
  if (each.target) tags.append(element("span", "tag target", each.alpha === null ? "★ target" : `★ target, α ${each.alpha.toFixed(2)}`));
  if (each.truncated) tags.append(element("span", "tag bad", "truncated"));
  if (each.tokens !== null) tags.append(element("span", "muted", count(each.tokens, "token")));
  block.append(tags, marked(element("div", "text"), each.text, words));
  return block;
}

function pairs(rows, wide) {
  const made = element("dl", wide ? "pairs wide" : "pairs");
  for (const [name, ...values] of rows) { const row = element("div"); row.append(element("dt", "", name), element("dd", "", values.filter(Boolean).join(", "))); made.append(row); }
  return made;
}
function differences() { // of the runs' options
  const options = report.runs.map((run) => new Map(run.config)), names = [...new Set(report.runs.flatMap((run) => run.config.map(([name]) => name)))];
  const differing = names.filter((name) => new Set(options.map((each) => each.get(name))).size > 1);
  if (!several || !differing.length) return;
  const block = element("div", "card differences"), table = element("table"), titles = element("tr");
  titles.append(element("th", "", "Options that differ"), ...report.runs.map((run) => element("th", "", run.name)));
  table.append(titles);
  for (const name of differing) {
    const row = element("tr");
    row.append(element("td", "muted", name), ...options.map((each) => element("td", "", each.has(name) ? each.get(name) : "")));
    table.append(row);
  }
  block.tabIndex = 0; // it scrolls where it is narrow
  block.setAttribute("role", "region");
  block.setAttribute("aria-label", "Options that differ");
  block.append(table);
  byId("setup").append(block);
}
function setup() {
  differences();
  report.runs.forEach((run, n) => {
    const block = element("div", "card setup of-run");
    if (several) { const title = element("h3", "run", run.name); title.style.setProperty("--c", color(n)); block.append(title); }
    block.append(element("p", "muted", run.folder));
    for (const [title, rows] of [["Data", run.data], ["Versions", run.versions], ["Configuration", run.config.slice(0, run.first)]])
      if (rows.length) block.append(element("h3", "", title), pairs(rows, title === "Data"));
    if (run.config.length > run.first) {
      const rest = element("details");
      rest.append(element("summary", "", `${run.config.length - run.first} further options`), pairs(run.config.slice(run.first)));
      block.append(rest);
    }
    byId("setup").append(block);
  });
}

// The page of a run that goes on loads itself again, and stays as the reader left it.
function remember() {
  const fields = [...document.querySelectorAll("input[type=search], select")];
  history.replaceState({
    fields: fields.map((field) => [field.id, field.selectedOptions ? field.selectedOptions[0]?.text : field.value]),
    hidden: [...hidden],
    at: window.scrollY,
  }, "");
}
function recall() {
  if (!history.state) return;
  for (const [id, text] of history.state.fields) {
    const field = byId(id), chosen = field?.options && [...field.options].find((each) => each.text === text);
    if (!field || (field.options && !chosen)) continue;
    field.value = chosen ? chosen.value : text;
    for (const name of ["input", "change"]) field.dispatchEvent(new Event(name, { bubbles: true }));
  }
  for (const n of history.state.hidden) byId("runs").children[n]?.click();
  window.scrollTo({ top: history.state.at, behavior: "instant" });
}
function keepCurrent() { // more rarely where nobody has written the page for long: its run was killed
  const age = Date.now() / 1000 - report.written;
  const isRead = () => document.querySelector("details[open]") || document.activeElement?.closest("input, select, svg, #answer");
  if (report.refresh) setInterval(() => { if (!isRead()) { remember(); location.reload(); } }, 1000 * Math.max(report.refresh, age / 10));
}

scores();
tiles();
byId("dynamics-section").hidden = !report.charts.length;
runButtons();
report.charts.forEach(drawChart);
gains();
targets();
answers();
filters();
setup();
head();
recall();
keepCurrent();
document.documentElement.dataset.ready = "";
