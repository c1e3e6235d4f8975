// What script adds to a page that is whole without it: live rows, dialogs, keys, times in one zone.
// It never makes markup from text: what it shows was rendered by the server, parsed by the browser.
"use strict";

(() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));
  const kept = {
    get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
    set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* a choice for this page only */ } },
  };

  // ---- what is said aloud: at most one message in five seconds ----

  let saidAt = 0;
  let saying = 0;
  function say(text) {
    const line = one("#say");
    if (!line) return;
    clearTimeout(saying);
    saying = setTimeout(() => { saidAt = Date.now(); line.textContent = text; }, Math.max(0, saidAt + 5000 - Date.now()));
  }

  // ---- times ----

  let local = kept.get("muster.zone") === "local";

  function span(ms) {
    const s = Math.max(0, Math.floor(ms / 1000));
    if (s < 60) return `${s}s`;
    if (s < 3600) return `${Math.floor(s / 60)}m`;
    if (s < 86400) return `${Math.floor(s / 3600)}h`;
    if (s < 31536000) return `${Math.floor(s / 86400)}d`;
    return `${Math.floor(s / 31536000)}y ${Math.floor((s % 31536000) / 86400)}d`;
  }

  const two = (n) => String(n).padStart(2, "0");

  function parts(date) {
    if (!local) {
      const text = date.toISOString();
      return { day: text.slice(0, 10), clock: text.slice(11, 19), zone: "UTC" };
    }
    const offset = -date.getTimezoneOffset();
    const sign = offset < 0 ? "−" : "+";
    const zone = `UTC${sign}${two(Math.floor(Math.abs(offset) / 60))}:${two(Math.abs(offset) % 60)}`;
    return {
      day: `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`,
      clock: `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`,
      zone,
    };
  }

  function told(form, date) {
    const past = Date.now() - date.getTime();
    const { day, clock, zone } = parts(date);
    switch (form) {
      case "ago": return past < 5000 ? "just now" : `${span(past)} ago`;
      case "span": return span(past);
      case "ends": return past > 0 ? `ended ${span(past)} ago` : `in ${span(-past)}`;
      case "clock": return clock;
      case "minute": return clock.slice(0, 5);
      case "date": return day.slice(5);
      default: return `${day} ${clock} ${zone}`;
    }
  }

  function times(within = document) {
    for (const time of all("time[data-form]", within)) {
      const date = new Date(time.dateTime);
      if (Number.isNaN(date.getTime())) continue;
      const text = told(time.dataset.form, date);
      if (time.textContent !== text) time.textContent = text;
      const { day, clock, zone } = parts(date);
      time.title = `${day} ${clock} ${zone}`;
    }
  }

  function clock() {
    const button = one("#zone");
    if (!button) return;
    const { clock: now, zone } = parts(new Date());
    one(".word", button).textContent = zone;
    one("[data-clock]", button).textContent = now.slice(0, 5);
  }

  function zone() {
    local = !local;
    kept.set("muster.zone", local ? "local" : "utc");
    times();
    clock();
  }

  // ---- a dialog: the form of the page it links to ----

  const dialog = one("#dialog");
  let opener = null;

  function show(content, title) {
    const inner = one(".inner", dialog);
    inner.replaceChildren(content);
    if (title) dialog.setAttribute("aria-label", title);
    opener = document.activeElement;
    dialog.showModal();
    const first = one("[data-first], input:not([type=hidden]), button", inner);
    if (first) first.focus();
  }

  async function ask(href) {
    let answer;
    try {
      answer = await fetch(href, { credentials: "same-origin", headers: { accept: "text/html" } });
    } catch {
      location.href = href;
      return;
    }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const form = one("form[data-act]", page);
    if (!answer.ok || !form) {
      location.href = href;
      return;
    }
    const shown = document.importNode(form, true);
    times(shown);
    show(shown);
  }

  dialog?.addEventListener("close", () => {
    one(".inner", dialog).replaceChildren();
    if (opener?.isConnected) opener.focus();
  });
  dialog?.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-dialog]");
    if (link && dialog && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      link.closest("details")?.removeAttribute("open");
      ask(link.href);
      return;
    }
    if (event.target.closest("a[data-close]") && dialog?.open) {
      event.preventDefault();
      dialog.close();
      return;
    }
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      navigator.clipboard?.writeText(copy.dataset.copy).then(() => say(`${copy.dataset.copy} copied`), () => {});
      return;
    }
    for (const menu of all("details.who[open], details.more-acts[open]")) {
      if (!menu.contains(event.target)) menu.removeAttribute("open");
    }
  });

  // ---- a choice of rows ----

  const choice = one("#choice");
  const bar = one("#with");

  function chosen() {
    if (!choice || !bar) return;
    const n = all("input[name=s]:checked", choice).length;
    bar.hidden = n === 0;
    one("[data-selected]", bar).textContent = `${n} selected:`;
    const whole = one("#all");
    if (whole) {
      const rows = all("input[name=s]", choice).length;
      whole.checked = n === rows && n > 0;
      whole.indeterminate = n > 0 && n < rows;
    }
  }

  choice?.addEventListener("change", (event) => {
    if (event.target.id === "all") {
      for (const box of all("input[name=s]", choice)) box.checked = event.target.checked;
    }
    chosen();
  });
  choice?.addEventListener("submit", (event) => {
    const act = event.submitter?.value;
    if (!dialog || !act || act === "revoke") return;
    event.preventDefault();
    const asked = new URLSearchParams(new FormData(choice));
    asked.set("act", act);
    ask(`/acts?${asked}`);
  });

  for (const box of all("[data-col]")) {
    box.addEventListener("change", () => {
      const form = box.closest("form");
      one("[name=cols]", form).value = all("[data-col]:checked", form).map((on) => on.dataset.col).join(",");
    });
  }

  // ---- what was just done: its way back stays for ten seconds, longer while somebody is at it ----

  const done = one("[data-done]");
  if (done && one("[data-undo]", done)) {
    let left = 10;
    const button = one("[data-undo]", done);
    const tick = setInterval(() => {
      if (done.matches(":hover, :focus-within")) return;
      left -= 1;
      button.textContent = `Undo (${left} s)`;
      if (left <= 0) {
        clearInterval(tick);
        button.closest("form").remove();
      }
    }, 1000);
    button.textContent = `Undo (${left} s)`;
  }
  if (done) history.replaceState(null, "", location.pathname);

  // ---- live ----

  const pill = one("#live");
  const LEAST_MS = 1000;
  let stream = null;
  let last = null;
  let paused = kept.get("muster.paused") === "yes";
  let dirty = false;
  let reading = false;
  let due = 0;
  let lostAt = 0;
  let retry = 1;
  let freshAt = Date.now();

  function state(name, word, glyph, since = "") {
    if (!pill) return;
    pill.dataset.state = name;
    one(".dot", pill).textContent = glyph;
    one(".word", pill).textContent = word;
    one(".since", pill).textContent = since;
  }

  // A person is at it: what is on the page stays as it is.
  function busy() {
    if (paused || dialog?.open || document.hidden) return true;
    const chosenText = getSelection();
    if (chosenText && !chosenText.isCollapsed && chosenText.toString() !== "") return true;
    const at = document.activeElement;
    return Boolean(at && at.closest("tr[data-live], .more-acts[open], main form:not(#choice), main input:not([type=checkbox])"));
  }

  const still = (element) => {
    const copy = element.cloneNode(true);
    for (const time of all("time", copy)) time.textContent = time.dateTime;
    for (const mark of all(".changed", copy)) mark.classList.remove("changed");
    return copy.innerHTML;
  };

  function replace(old, fresh) {
    if (still(old) === still(fresh)) return false;
    const shown = document.importNode(fresh, true);
    times(shown);
    old.replaceChildren(...shown.childNodes);
    old.classList.remove("changed");
    void old.offsetWidth;
    old.classList.add("changed");
    return true;
  }

  // Cells change in place. Rows never move, appear or vanish by themselves.
  function take(page) {
    const fresh = new Map(all("[data-live]", page).map((element) => [element.dataset.live, element]));
    for (const old of all("[data-live]")) {
      const now = fresh.get(old.dataset.live);
      if (!now) continue;
      if (old.tagName === "TR") {
        const cells = Array.from(now.cells);
        Array.from(old.cells).forEach((cell, at) => {
          if (cells[at] && !("keep" in cell.dataset)) replace(cell, cells[at]);
        });
      } else if (!one("[data-live]", old)) {
        replace(old, now);
      }
    }
    const list = one("[data-list]");
    const button = one("#fresh");
    if (!list || !button) return;
    const here = new Set(all("tr[data-live]", list).map((row) => row.dataset.live));
    const other = one(`[data-list="${list.dataset.list}"]`, page);
    const more = other ? all("tr[data-live]", other).filter((row) => !here.has(row.dataset.live)).length : 0;
    button.hidden = more === 0;
    button.textContent = `${more} new · show`;
    button.href = location.href;
    if (more > 0) say(`${more} new rows`);
  }

  async function refresh() {
    if (reading || !dirty) return;
    if (busy() || Date.now() < due) return;
    reading = true;
    dirty = false;
    const began = Date.now();
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", headers: { accept: "text/html" } });
      if (answer.redirected && new URL(answer.url).pathname === "/login") {
        location.href = answer.url;
        return;
      }
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (!busy()) take(page);
        else dirty = true;
      }
    } catch {
      dirty = true;
    } finally {
      reading = false;
      // A page that is slow to make is asked for less often.
      due = Date.now() + Math.max(LEAST_MS, 4 * (Date.now() - began));
    }
  }

  function heard(event) {
    if (event.lastEventId) last = event.lastEventId;
    freshAt = Date.now();
    dirty = true;
  }

  function open() {
    if (stream || paused || document.hidden || !pill) return;
    const asked = new URLSearchParams();
    const only = one("[data-stream]")?.dataset.stream;
    if (only) asked.set("filter", only);
    if (last) asked.set("after", last);
    stream = new EventSource(`/v1/stream?${asked}`);
    stream.onopen = () => {
      if (lostAt) dirty = true;
      lostAt = 0;
      retry = 1;
      freshAt = Date.now();
      document.body.classList.remove("stale");
      state("live", "Live", "●");
    };
    stream.onmessage = heard;
    for (const name of ["change", "presence", "refusal", "notice", "message", "gap"]) stream.addEventListener(name, heard);
    stream.addEventListener("end", () => location.reload());
    stream.onerror = () => {
      close();
      lostAt = lostAt || Date.now();
      retry = Math.min(30, retry * 2);
      wait(retry);
    };
  }

  function close() {
    stream?.close();
    stream = null;
  }

  let waiting = 0;
  function wait(seconds) {
    clearTimeout(waiting);
    if (paused || document.hidden) return;
    const { clock: at } = parts(new Date(freshAt));
    state("away", `Reconnecting in ${seconds} s`, "◌", `data from ${at}`);
    if (lostAt && Date.now() - lostAt > 30000) document.body.classList.add("stale");
    waiting = setTimeout(() => (seconds > 1 ? wait(seconds - 1) : open()), 1000);
  }

  function pause(yes) {
    paused = yes;
    kept.set("muster.paused", yes ? "yes" : "no");
    if (yes) {
      clearTimeout(waiting);
      close();
      state("paused", "Paused", "‖");
    } else {
      dirty = true;
      open();
    }
  }

  if (pill) {
    pill.hidden = false;
    pill.addEventListener("click", () => pause(!paused));
    if (paused) state("paused", "Paused", "‖");
    else state("away", "Connecting", "◌");
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) close();
      else { dirty = true; open(); }
    });
    addEventListener("pagehide", close);
    open();
    setInterval(refresh, 250);
    // A job tells how far it is when it is asked.
    if (one("[data-poll]")) setInterval(() => { if (one("[data-poll]")) dirty = true; }, 2000);
  }

  // ---- keys ----

  const KEYS = [
    ["/", "search"], ["?", "all keys"], ["g then o d b c a s", "go to overview, devices, batches, certificates, audit, settings"],
    ["j k", "next, previous row"], ["Enter", "open the row"], ["x", "select the row"], ["y", "copy the serial"],
    ["n", "suspend…"], ["r", "resume…"], [".", "pause live"], ["u", "UTC or local time"], ["[ ]", "previous, next device"], ["Esc", "close"],
  ];
  let keysOn = kept.get("muster.keys") !== "off";
  let going = 0;

  function help() {
    if (!dialog || dialog.open) return;
    const box = document.createElement("div");
    const title = document.createElement("h2");
    title.textContent = "Keys";
    const list = document.createElement("dl");
    list.className = "keys";
    for (const [key, word] of KEYS) {
      const name = document.createElement("dt");
      const cap = document.createElement("kbd");
      cap.textContent = key;
      name.append(cap);
      const said = document.createElement("dd");
      said.textContent = word;
      list.append(name, said);
    }
    const off = document.createElement("label");
    const tick = document.createElement("input");
    tick.type = "checkbox";
    tick.checked = keysOn;
    tick.addEventListener("change", () => { keysOn = tick.checked; kept.set("muster.keys", keysOn ? "on" : "off"); });
    off.append(tick, " Keys are on");
    const shut = document.createElement("button");
    shut.className = "button";
    shut.textContent = "Close";
    shut.addEventListener("click", () => dialog.close());
    box.className = "stack";
    box.append(title, list, off, document.createElement("br"), shut);
    show(box, "Keys");
  }

  const rows = () => all("tr[data-href]");
  const here = () => one("tr.here") ?? document.activeElement?.closest?.("tr[data-href]") ?? null;

  function move(by) {
    const list = rows();
    if (list.length === 0) return;
    const at = list.indexOf(here());
    const next = list[Math.min(list.length - 1, Math.max(0, at + by))];
    for (const row of list) row.classList.toggle("here", row === next);
    next.scrollIntoView({ block: "nearest" });
  }

  const serial = () => here()?.dataset.serial ?? one("[data-device]")?.dataset.device ?? null;

  function beside(by) {
    const list = JSON.parse(sessionStorage.getItem("muster.list") ?? "[]");
    const at = list.indexOf(location.pathname);
    if (at >= 0 && list[at + by]) location.href = list[at + by];
  }
  if (one('[data-list="devices"]')) {
    try { sessionStorage.setItem("muster.list", JSON.stringify(rows().map((row) => row.dataset.href))); } catch { /* keys [ ] stay still */ }
  }

  function act(verb) {
    const name = serial();
    if (name && one(".acts, #with")) ask(`/devices/${encodeURIComponent(name)}/${verb}`);
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !dialog) return;
    const typing = event.target.closest("input:not([type=checkbox]), textarea, select, dialog");
    if (event.key === "Escape") {
      for (const menu of all("details[open].who, details[open].more-acts")) menu.removeAttribute("open");
      if (typing && !dialog.open) event.target.blur();
      return;
    }
    if (typing || !keysOn) return;
    if (Date.now() - going < 1500) {
      going = 0;
      const link = one(`a[data-go="${CSS.escape(event.key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    const row = here();
    const does = {
      "/": () => (one("#filter") ?? one("#find"))?.focus(),
      "?": help,
      g: () => { going = Date.now(); },
      j: () => move(1),
      k: () => move(-1),
      x: () => one("input[name=s]", row ?? document.createElement("i"))?.click(),
      y: () => { const name = serial(); if (name) navigator.clipboard?.writeText(name).then(() => say(`${name} copied`), () => {}); },
      n: () => act("suspend"),
      r: () => act("resume"),
      ".": () => pause(!paused),
      u: zone,
      "[": () => beside(-1),
      "]": () => beside(1),
    }[event.key];
    if (does) {
      event.preventDefault();
      does();
    } else if (event.key === "Enter" && row && !event.target.closest("a, button, summary")) {
      location.href = row.dataset.href;
    }
  });

  one("#keys-open")?.addEventListener("click", help);
  one("#zone")?.addEventListener("click", zone);
  for (const hidden of all("[data-copy], #keys-open, #all")) hidden.hidden = false;
  for (const note of all("[data-noscript]")) note.remove();
  one("[data-first]")?.focus();
  chosen();
  times();
  clock();
  setInterval(() => { times(); clock(); }, 10000);
})();
