// The page of a name of traces: one pane for each sender, live. Whatever a sender says becomes text
// of an element and nothing else.

import { follow } from "./events.js";
import { Log } from "./log.js";

const SIGNALS = {
  1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL", 10: "USR1",
  11: "SEGV", 12: "USR2", 13: "PIPE", 14: "ALRM", 15: "TERM", 19: "STOP", 24: "XCPU", 25: "XFSZ",
};
const GAPS = {
  window: "are older than what is kept of a trace",
  fabric: "were lost when the fabric restarted",
  dropped: "were dropped by the sender, which could not reach the server",
  limit: "are beyond what is kept of one trace",
};
const PALETTE = 8;

const $ = (id) => document.getElementById(id);
const place = readPlace();
const senders = new Map(); // by trace
const colours = new Map(); // by the id of a sender
let connection = null;
let sorted = false;

function readPlace() {
  const words = location.pathname.split("/").filter(Boolean);
  const secret = new URLSearchParams(location.hash.slice(1));
  const asked = new URLSearchParams(location.search);
  return {
    name: words.length > 1 ? decodeURIComponent(words[1]) : "",
    namespace: asked.get("namespace"),
    node: asked.get("node"),
    token: secret.get("access_token") ?? sessionStorage.getItem("qd-token") ?? "",
  };
}

function make(kind, className, text) {
  const element = document.createElement(kind);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function button(text, title, press) {
  const element = make("button", "", text);
  element.type = "button";
  element.title = title;
  element.addEventListener("click", press);
  return element;
}

// ---- senders

class Sender {
  constructor(event) {
    this.run = event.id;
    this.node = event.node;
    this.state = "running";
    this.attached = true;
    this.began = Date.parse(event.started_at);
    this.ended = null;
    this.#chip();
    this.#pane(event);
    this.show();
  }

  #chip() {
    if (!colours.has(this.node)) colours.set(this.node, colours.size % PALETTE);
    this.chip = button("", "", () => this.attach(!this.attached));
    this.chip.className = `sender colour${colours.get(this.node)}`;
    this.chip.append(make("i", "dot"), make("b", "", this.node), (this.word = make("span", "word")));
  }

  #pane(event) {
    this.pane = make("section", `pane colour${colours.get(this.node)}`);
    this.pane.setAttribute("aria-label", `Output of ${this.node}`);
    const head = make("div", "head");
    const title = make("h3", "", this.node);
    this.verdict = make("span", "verdict");
    this.clock = make("time", "clock");
    const close = button("×", "Detach: put this sender away (its button brings it back)", () => this.attach(false));
    close.className = "close";
    close.setAttribute("aria-label", `Detach ${this.node}`);
    head.append(make("i", "dot"), title, this.verdict, this.clock, close);
    const about = make("p", "about");
    about.append(make("code", "", event.title || event.command.join(" ") || event.name), make("span", "", where(event)));
    this.body = make("div", "log");
    this.body.tabIndex = 0;
    this.body.setAttribute("role", "log");
    this.jump = button("", "Go to the newest line", () => this.log.toEnd());
    this.jump.className = "jump";
    this.log = new Log(this.body, { scrolled: () => this.#scrolled() });
    this.pane.append(head, about, this.body, this.jump);
  }

  #scrolled() {
    const behind = this.log.behind;
    this.jump.hidden = this.log.following;
    this.jump.textContent = behind ? `↓ ${behind} more` : "↓ newest";
    this.pane.classList.toggle("cut", this.log.letGo > 0);
  }

  attach(on) {
    this.attached = on;
    arrange();
    if (on) this.log.toEnd();
  }

  output(event) {
    const bytes = event.data !== undefined && event.data !== null
      ? new TextEncoder().encode(event.data)
      : Uint8Array.from(atob(event.data_b64 ?? ""), (c) => c.charCodeAt(0));
    const known = this.offsets?.[event.stream] ?? 0;
    this.offsets = { ...this.offsets, [event.stream]: Math.max(known, event.offset + bytes.length) };
    if (event.offset + bytes.length > known || bytes.length === 0) {
      this.log.output(event.stream, bytes.subarray(Math.max(0, known - event.offset)), event.time_us);
    }
  }

  gap(event) {
    if (event.bytes) this.log.note("gap", `${size(event.bytes)} of ${event.stream} ${GAPS[event.reason] ?? "are missing"}`);
    else this.log.note("gap", "the fabric was restarted: who comes later does not see what is above");
  }

  turn(event) {
    if (event.state !== "ended") {
      this.state = "running";
      this.ended = null;
      this.log.note("back", "heard again: it goes on");
    } else {
      this.state = event.outcome;
      this.ended = Date.parse(event.ended_at);
      this.code = event.exit_code;
      this.signal = event.signal;
      this.log.note(`end ${event.outcome}`, this.#ending(event));
    }
    this.show();
  }

  #ending(event) {
    const took = `after ${span(this.ended - this.began)}`;
    if (event.outcome === "lost") return `lost: ${event.message || "nothing is heard of the sender"}`;
    let text = event.exit_code === null ? `ended ${took}` : `exited with code ${event.exit_code} ${took}`;
    if (event.signal) text = `ended by signal ${event.signal}${SIGNALS[event.signal] ? ` (SIG${SIGNALS[event.signal]})` : ""}, code ${event.exit_code ?? 128 + event.signal}, ${took}`;
    return event.message ? `${text}: ${event.message}` : text;
  }

  verdictText() {
    if (this.state === "running") return "running";
    if (this.state === "lost") return "lost";
    if (this.signal) return SIGNALS[this.signal] ? `SIG${SIGNALS[this.signal]}` : `signal ${this.signal}`;
    return this.code === null ? "ended" : `exit ${this.code}`;
  }

  show() {
    for (const element of [this.chip, this.pane]) element.dataset.state = this.state;
    this.verdict.textContent = this.word.textContent = this.verdictText();
    this.tick();
  }

  tick() {
    this.clock.textContent = span((this.ended ?? Date.now()) - this.began);
  }
}

function where(event) {
  const who = [event.user, event.host].filter(Boolean).join("@");
  const parts = [who && event.cwd ? `${who}:${event.cwd}` : who || event.cwd];
  if (event.pid) parts.push(`pid ${event.pid}`);
  parts.push(`since ${new Date(event.started_at).toLocaleString([], { dateStyle: "short", timeStyle: "medium" })}`);
  if (event.kept) parts.push("kept");
  return parts.filter(Boolean).join(" · ");
}

// ---- the page as a whole

function arrange() {
  const shown = [...senders.values()].filter((one) => one.attached);
  const panes = $("panes");
  panes.dataset.count = Math.min(shown.length, 3);
  for (const one of senders.values()) {
    one.chip.setAttribute("aria-pressed", String(one.attached));
    one.chip.title = one.attached ? `Detach ${one.node}` : `Attach ${one.node}`;
    if (one.attached && !one.pane.isConnected) enter(panes, one.pane);
    if (!one.attached) one.pane.remove();
  }
  $("bar").hidden = senders.size === 0;
  $("waiting").hidden = senders.size > 0 || !$("token").hidden;
  summary();
}

// What goes on stands before what is over, also before that which was over long ago.
function enter(box, element) {
  const over = element.dataset.state === "running" ? box.querySelector(':scope > :not([data-state="running"])') : null;
  box.insertBefore(element, over);
}

// Once, when all there was is here: what goes on, then what is over, the newest first. Later nothing
// moves any more under the reader's eyes.
function sort() {
  if (sorted) return;
  sorted = true;
  const over = [...senders.values()].filter((one) => one.state !== "running").sort((a, b) => b.began - a.began);
  for (const one of over) {
    $("senders").append(one.chip);
    if (one.attached) $("panes").append(one.pane);
    if (one.log.following) one.log.toEnd();
  }
}

function summary() {
  const counts = {};
  for (const one of senders.values()) counts[one.state] = (counts[one.state] ?? 0) + 1;
  const words = ["running", "failed", "lost", "succeeded"].filter((word) => counts[word]).map((word) => `${counts[word]} ${word}`);
  $("summary").textContent = words.join(" · ");
  const first = counts.failed || counts.lost ? "✗ " : counts.running ? "● " : senders.size ? "✓ " : "";
  document.title = `${first}${place.name} · quarterdeck`;
}

function show(event) {
  if (event.type === "run" && !senders.has(event.id)) {
    const sender = new Sender(event);
    senders.set(event.id, sender);
    enter($("senders"), sender.chip);
    arrange();
    return;
  }
  if (event.type === "present") sort();
  const sender = senders.get(event.run);
  if (sender === undefined) return;
  if (event.type === "output") sender.output(event);
  else if (event.type === "gap") sender.gap(event);
  else if (event.type === "task") {
    sender.turn(event);
    summary();
  }
}

function linked(word, problem) {
  const link = $("link");
  link.hidden = false;
  link.dataset.state = word;
  link.textContent = { live: "live", away: "reconnecting", denied: "stopped" }[word] ?? word;
  if (word === "denied") ask(problem);
}

function ask(problem) {
  sessionStorage.removeItem("qd-token");
  $("token").hidden = false;
  $("waiting").hidden = true;
  if (problem?.code === "bad_token") $("token-why").textContent = "The token of this link is not valid here: it was mistyped, has expired, or was revoked.";
  else if (problem?.detail) $("token-why").textContent = problem.detail;
  $("token-text").focus();
}

function watch() {
  connection?.abort();
  connection = new AbortController();
  const query = new URLSearchParams({ forever: "true" });
  if (place.namespace) query.set("namespace", place.namespace);
  if (place.node) query.set("node", place.node);
  const url = `/v1/trace/${encodeURIComponent(place.name)}/stream?${query}`;
  follow(url, place.token, { show, state: linked, signal: connection.signal });
}

function toggle(id, key, change) {
  const element = $(id);
  const press = () => {
    const on = element.getAttribute("aria-pressed") !== "true";
    element.setAttribute("aria-pressed", String(on));
    change(on);
  };
  element.addEventListener("click", press);
  document.addEventListener("keydown", (event) => {
    if (event.key === key && !event.ctrlKey && !event.metaKey && !event.altKey && event.target.tagName !== "INPUT") press();
  });
}

async function recent() {
  if (!place.token) return;
  const query = new URLSearchParams({ limit: "100" });
  if (place.namespace) query.set("namespace", place.namespace);
  const answer = await fetch(`/v1/traces?${query}`, { headers: { Authorization: `Bearer ${place.token}` } }).catch(() => null);
  if (!answer?.ok) return;
  const names = new Map();
  for (const one of (await answer.json()).items) {
    if (!names.has(one.name)) names.set(one.name, []);
    names.get(one.name).push(one);
  }
  for (const [name, traces] of [...names].slice(0, 12)) {
    const link = make("a");
    link.href = address(name);
    const going = traces.filter((one) => one.state === "open" && !one.lost).length;
    const row = make("li");
    link.append(make("b", "", name), make("span", "", `${going ? `${going} running · ` : ""}${[...new Set(traces.map((one) => one.id))].slice(0, 4).join(", ")}`));
    link.dataset.state = going ? "running" : "ended";
    row.append(link);
    $("recent").append(row);
  }
}

function address(name) {
  const query = place.namespace ? `?namespace=${encodeURIComponent(place.namespace)}` : "";
  const secret = place.token ? `#access_token=${encodeURIComponent(place.token)}` : "";
  return `/trace/${encodeURIComponent(name)}${query}${secret}`;
}

function size(bytes) {
  const units = ["bytes", "KiB", "MiB", "GiB"];
  let at = 0;
  for (; bytes >= 1024 && at < units.length - 1; at += 1) bytes /= 1024;
  return `${at ? bytes.toFixed(1) : bytes} ${units[at]}`;
}

function span(ms) {
  const seconds = Math.max(0, ms / 1000);
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function start() {
  $("home").href = place.token ? address("").replace(/\/trace\//, "/trace") : "/trace";
  $("pick-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("pick-name").value.trim();
    if (name) location.assign(address(name));
  });
  $("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    place.token = $("token-text").value.trim();
    sessionStorage.setItem("qd-token", place.token);
    $("token").hidden = true;
    arrange();
    watch();
  });
  toggle("follow", "f", (on) => {
    document.body.classList.toggle("free", !on);
    for (const one of senders.values()) {
      one.log.steady = !on;
      if (on) one.log.toEnd();
    }
  });
  toggle("wrap", "w", (on) => document.body.classList.toggle("nowrap", !on));
  toggle("times", "t", (on) => document.body.classList.toggle("times", on));
  window.addEventListener("hashchange", () => location.reload());
  if (!place.name) {
    $("pick").hidden = false;
    $("pick-name").focus();
    recent();
    return;
  }
  $("name").textContent = place.name;
  $("waiting-name").textContent = place.name;
  $("waiting-command").textContent = `tt -n ${place.name} 'echo hello'`;
  setInterval(() => {
    for (const one of senders.values()) if (one.state === "running") one.tick();
  }, 1000);
  arrange();
  if (place.token) watch();
  else ask(null);
}

start();
