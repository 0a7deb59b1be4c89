
"use strict";
// Reads the API as anybody could: the status each second, events as they come. What is shown comes
// from configurations and names in DNS, so it is only ever written as text, never as markup.
(() => {
  const PERIOD = 1000, KEPT = 180, EVENTS = 200;
  const $ = (id) => document.getElementById(id);
  const api = (path) => new URL(path, location.origin).href;
  const SVG = "http://www.w3.org/2000/svg";

  // ---- Elements, made once and then changed in place, so that focus and selection stay.
  function make(tag, attributes = {}, ...children) {
    const is_svg = ["svg", "path", "line"].includes(tag);
    const element = is_svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }
  function write(element, text) { if (element.textContent !== text) element.textContent = text; }
  function look(element, name) { if (element.getAttribute("class") !== name) element.setAttribute("class", name); }
  // Keeps one child per key, in this order.
  function keyed(parent, items, key, create, update) {
    const old = parent.children_by_key || new Map(), now = new Map();
    items.forEach((item, at) => {
      const name = key(item);
      const child = old.get(name) || create(item);
      now.set(name, child);
      if (parent.children[at] !== child) parent.insertBefore(child, parent.children[at] || null);
      update(child, item);
    });
    for (const [name, child] of old) if (!now.has(name)) child.remove();
    parent.children_by_key = now;
  }

  // ---- Numbers for people.
  function short(value, digits = 3) {
    if (value === null || !isFinite(value)) return "–";
    for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]])
      if (value >= size) { const by = unit === "k" ? 1e3 : size; return trim(value / by, digits) + unit; }
    return trim(value, digits);
  }
  function trim(value, digits) {
    if (value === 0) return "0";
    const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
    return String(+value.toFixed(Math.min(decimals, value >= 100 ? 0 : 2)));
  }
  function octets(value) { return value < 1e4 ? Math.round(value) + " B" : short(value).replace(/(\D?)$/, " $1") + "B"; }
  function span(seconds) {
    if (seconds === null || !isFinite(seconds)) return "–";
    if (seconds < 1e-3) return trim(seconds * 1e6, 3) + " µs";
    if (seconds < 1) return trim(seconds * 1e3, 3) + " ms";
    if (seconds < 120) return trim(seconds, 3) + " s";
    const parts = [[86400, "d"], [3600, "h"], [60, "m"]].find(([size]) => seconds >= size);
    return Math.floor(seconds / parts[0]) + " " + parts[1];
  }
  function clock(seconds) { return new Date(seconds * 1000).toLocaleTimeString([], { hour12: false }); }

  // ---- What has been seen: counters become rates, and rates become lines.
  const series = new Map();
  function push(name, value) {
    const list = series.get(name) || [];
    list.push(value);
    if (list.length > KEPT) list.shift();
    series.set(name, list);
    touched.add(name);
  }
  let touched = new Set();
  let before = null;
  const rate = (now, old, seconds) => seconds > 0 && old !== undefined && now >= old ? (now - old) / seconds : null;

  // A quantile of what was counted between two looks, within the bucket where it falls.
  function quantile(share, buckets, old, bounds) {
    const counts = buckets.map((count, at) => Math.max(0, count - ((old && old[at]) || 0)));
    const total = counts.reduce((sum, count) => sum + count, 0);
    if (!total) return null;
    let left = share * total;
    for (let at = 0; at < counts.length; at++) {
      if (left <= counts[at] && counts[at]) {
        const low = at ? bounds[at - 1] : 0, high = bounds[at];
        return high === undefined ? low : low + (high - low) * (left / counts[at]);
      }
      left -= counts[at];
    }
    return null;
  }
  function sum_buckets(views) {
    const all = [];
    for (const view of views) (view.buckets || []).forEach((count, at) => { all[at] = (all[at] || 0) + count; });
    return all;
  }

  // One flat table of counters per look.
  function counters(status) {
    const flat = { at: status.read_at_seconds, requests: 0, errors: 0, received: 0, sent: 0, packets: 0, connections: 0, buckets: [], of: {} };
    const durations = [];
    for (const listener of status.http_listeners || []) {
      const errors = (listener.responses || {})["5xx"] || 0;
      flat.requests += listener.requests; flat.errors += errors;
      flat.received += listener.received_bytes; flat.sent += listener.sent_bytes;
      flat.connections += listener.connections_active;
      durations.push(listener.durations || {});
      flat.of["l/" + listener.name] = { count: listener.requests, errors, buckets: (listener.durations || {}).buckets || [] };
    }
    for (const listener of status.stream_listeners || []) {
      flat.received += listener.received_bytes; flat.sent += listener.sent_bytes;
      flat.connections += listener.connections_active;
      flat.of["l/" + listener.name] = { count: listener.connections, errors: listener.failed, buckets: [] };
    }
    for (const service of status.services) {
      for (const listener of service.listeners) flat.of["k/" + service.name + "/" + listener.name] = { count: listener.local_packets, errors: listener.dropped, buckets: [] };
      for (const backend of service.backends) {
        const proxy = backend.proxy || {}, traffic = backend.traffic || {};
        flat.packets += (traffic.packets || 0) + (traffic.return_packets || 0);
        flat.of["b/" + service.name + "/" + backend.name] = {
          count: (proxy.requests || 0) + (traffic.new_flows || 0), errors: proxy.errors || 0,
          buckets: (proxy.durations || {}).buckets || [],
        };
      }
    }
    flat.buckets = sum_buckets(durations);
    return flat;
  }

  function learn(status) {
    const now = counters(status), bounds = status.duration_bounds || [];
    const old = before; before = now;
    if (!old || now.at <= old.at) return;
    const seconds = now.at - old.at;
    touched = new Set();
    push("requests", rate(now.requests, old.requests, seconds));
    push("errors", rate(now.errors, old.errors, seconds));
    push("received", rate(now.received, old.received, seconds));
    push("sent", rate(now.sent, old.sent, seconds));
    push("packets", rate(now.packets, old.packets, seconds));
    push("connections", now.connections);
    for (const [name, share] of [["p50", .5], ["p90", .9], ["p99", .99]]) push(name, quantile(share, now.buckets, old.buckets, bounds));
    for (const [name, one] of Object.entries(now.of)) {
      const other = old.of[name] || {};
      push(name, rate(one.count, other.count, seconds));
      push(name + "!", rate(one.errors, other.errors, seconds));
      push(name + "~", quantile(.99, one.buckets, other.buckets, bounds));
    }
    for (const name of series.keys()) if (!touched.has(name)) series.delete(name);
  }
  const last = (name) => { const list = series.get(name); return list && list.length ? list[list.length - 1] : null; };

  // ---- Plots: a path per line, in a box that stretches.
  function path(values, top, count, closed) {
    const x = (at) => ((at + count - values.length) / Math.max(1, count - 1) * 100).toFixed(2);
    const y = (value) => (100 - value / top * 100).toFixed(2);
    let text = "", start = null, previous = null;
    values.forEach((value, at) => {
      if (value === null) {
        if (closed && start !== null) text += `L${x(previous)} 100L${x(start)} 100Z`;
        start = null;
      } else {
        text += (start === null ? "M" : "L") + x(at) + " " + y(value);
        if (start === null) start = at;
        previous = at;
      }
    });
    if (closed && start !== null) text += `L${x(previous)} 100L${x(start)} 100Z`;
    return text;
  }
  const highest = (lists) => Math.max(0, ...lists.flat().filter((value) => value !== null));
  function ceiling(value) {
    if (value <= 0) return 1;
    const size = 10 ** Math.floor(Math.log10(value));
    return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * size).find((step) => step >= value * 1.02) || 10 * size;
  }
  function spark(svg, name, colour) {
    const values = (series.get(name) || []).slice(-60);
    if (!svg.firstChild) svg.append(make("path", { class: "area" }), make("path", { class: "line" }));
    svg.setAttribute("viewBox", "0 -6 100 108"); svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    svg.style.color = `var(--${colour})`;
    const top = ceiling(highest([values]));
    svg.children[0].setAttribute("d", path(values, top, 60, true));
    svg.children[1].setAttribute("d", path(values, top, 60, false));
  }
  function plot(id, lines, shown) {
    const box = $("plot-" + id), legend = $("legend-" + id), count = 120;
    const lists = lines.map(([name]) => (series.get(name) || []).slice(-count));
    const top = ceiling(highest(lists));
    if (!box.firstChild) {
      const svg = make("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" });
      for (const y of [0, 50, 100]) svg.append(make("line", { class: "grid", x1: 0, x2: 100, y1: y, y2: y }));
      for (const [, , colour] of lines) svg.append(make("path", { class: "area " + colour }), make("path", { class: "line " + colour }));
      box.append(svg);
      for (const share of [1, .5]) { const label = make("span", { class: "y" }); label.style.top = `calc((100% - 18px) * ${1 - share} + 16px)`; box.append(label); }
      const from = make("span", { class: "x" }, "2 min ago"), to = make("span", { class: "x" }, "now");
      from.style.left = "0"; to.style.right = "0"; box.append(from, to);
      for (const [, label, colour] of lines) { const swatch = make("i", { class: colour }); legend.append(make("span", {}, swatch, label, make("b"))); }
    }
    const svg = box.firstChild;
    svg.setAttribute("aria-label", lines.map(([name, label]) => `${label} ${shown(last(name))}`).join(", "));
    lists.forEach((values, at) => {
      svg.children[3 + 2 * at].setAttribute("d", path(values, top, count, true));
      svg.children[4 + 2 * at].setAttribute("d", path(values, top, count, false));
      write(legend.children[at].querySelector("b"), shown(last(lines[at][0])));
    });
    write(box.children[1], shown(top)); write(box.children[2], shown(top / 2));
  }

  // ---- The page.
  const wanted = () => $("filter").value.trim().toLowerCase();
  const fits = (...names) => !wanted() || names.some((name) => name.toLowerCase().includes(wanted()));

  function tiles() {
    const errors = last("requests") ? (last("errors") || 0) / last("requests") * 100 : last("requests") === null ? null : 0;
    const list = [
      ["Requests", short(last("requests")), "/s", "requests", "blue"],
      ["Errors (5xx)", errors === null ? "–" : trim(errors, 2), "%", "errors", "red", errors > 1],
      ["Latency p99", ...span(last("p99")).split(" "), "p99", "violet"],
      ["Connections", short(last("connections")), "", "connections", "green"],
      ["Sent", ...octets(last("sent") || 0).replace(/(\D+)$/, " $1/s").split(/\s+/), "sent", "amber"],
      ["Packets in the kernel", short(last("packets")), "/s", "packets", "blue"],
    ].map((tile) => tile.length < 5 ? [tile[0], tile[1], "", ...tile.slice(2)] : tile);
    keyed($("tiles"), list, ([label]) => label, ([label]) => make("div", { class: "card tile" },
      make("div", { class: "label" }, label), make("div", { class: "value" }), make("svg")),
    (tile, [, value, unit, name, colour, bad]) => {
      const [, number, svg] = tile.children;
      if (!number.firstChild) number.append(document.createTextNode(""), make("small"));
      number.firstChild.data = value; write(number.lastChild, unit);
      look(number, bad ? "value bad" : "value"); spark(svg, name, colour);
    });
  }

  function row(count) { const row = make("tr"); for (let at = 0; at < count; at++) row.append(make("td")); return row; }

  function listeners(status) {
    const all = [];
    for (const service of status.services) for (const one of service.listeners)
      all.push({ key: "k/" + service.name + "/" + one.name, name: one.name, kind: "l4 " + one.protocol, address: one.vip + " : " + one.port, open: service.backends.reduce((sum, backend) => sum + backend.live_flows, 0), unit: " pkt/s" });
    for (const one of status.http_listeners || []) all.push({ key: "l/" + one.name, name: one.name, kind: "http", address: one.address, open: one.connections_active, unit: "/s" });
    for (const one of status.stream_listeners || []) all.push({ key: "l/" + one.name, name: one.name, kind: one.protocol, address: one.address, open: one.connections_active, unit: "/s" });
    const shown = all.filter((one) => fits(one.name, one.address, one.kind));
    write($("n-listeners"), String(all.length));
    keyed($("listeners"), shown, (one) => one.key, () => row(7), (tr, one) => {
      const [name, kind, address, open, speed, p99, errors] = tr.children;
      write(name, one.name); write(kind, one.kind); look(kind, "dim");
      write(address, one.address); look(address, "mono");
      write(open, short(one.open)); write(speed, short(last(one.key)) + one.unit);
      write(p99, span(last(one.key + "~"))); write(errors, short(last(one.key + "!")) + "/s");
      for (const cell of [open, speed, p99, errors]) look(cell, "n");
      if (last(one.key + "!") > 0) look(errors, "n red");
    });
  }

  function why(backend) {
    const health = backend.health || {};
    if (backend.why) return backend.why;
    if (backend.state === "up" && health.verdict && health.last_probe_seconds !== undefined) return `probe passed in ${span(health.last_probe_seconds)}`;
    return "";
  }

  function service_card(service) {
    const head = make("header", {}, make("h3", {}, service.name), make("span", { class: "meta" }), make("span", { class: "pill" }));
    const table = make("table", {}, make("thead", {}, make("tr", {},
      ...["Backend", "Address", "Weight", "Active", "Rate", "p99", ""].map((text, at) => make("th", { scope: "col", ...(at > 1 ? { class: "n" } : {}) }, text)))), make("tbody"));
    return make("article", { class: "card service" }, head, make("div", { class: "scroll" }, table));
  }

  function network(seen) {
    if (!seen) return "";
    const rtt = seen.rtt_seconds === undefined ? "" : `round trip ${span(seen.rtt_seconds)}, `;
    return `; ${rtt}${short(seen.retransmits)} of ${short(seen.segments)} segments sent again, zero window at ${short(seen.zero_windows)} of ${short(seen.looks)} looks`;
  }

  function services(status) {
    const shown = status.services.filter((service) => fits(service.name, ...service.backends.map((backend) => backend.name)));
    write($("n-services"), String(status.services.length));
    keyed($("services"), shown, (service) => service.name, service_card, (card, service) => {
      const up = service.backends.filter((backend) => backend.state === "up").length, all = service.backends.length;
      const [, meta, pill] = card.firstChild.children;
      const proxy = service.proxy;
      const words = [proxy ? proxy.policy : service.mode, proxy && proxy.retries ? short(proxy.retries) + " retries" : "", proxy && proxy.waiting ? proxy.waiting + " waiting" : "", proxy && proxy.panic ? "panic: health is ignored" : ""];
      write(meta, words.filter(Boolean).join(" · "));
      write(pill, all ? `${up} of ${all} up` : "local"); look(pill, "pill " + (up === all ? "up" : up ? "warn" : "down"));
      keyed(card.querySelector("tbody"), service.backends, (backend) => backend.name, () => {
        const tr = row(7);
        tr.children[0].append(make("span", { class: "state" }, make("span")), make("span", { class: "why" }));
        tr.children[6].append(make("svg", { class: "spark" }));
        return tr;
      }, (tr, backend) => {
        const [name, address, weight, active, speed, p99, line] = tr.children;
        const [state, reason] = name.children, key = "b/" + service.name + "/" + backend.name, proxy = backend.proxy || {};
        write(state.firstChild, backend.name); look(state, "state " + backend.state);
        state.title = backend.state + network(backend.network); state.setAttribute("aria-label", `${backend.name} is ${backend.state}`);
        write(reason, why(backend)); look(reason, "why " + backend.state);
        reason.hidden = !reason.textContent;
        write(address, backend.address + (backend.port && !backend.address.endsWith(":" + backend.port) ? ":" + backend.port : "")); look(address, "mono dim");
        write(weight, String(backend.weight)); write(active, short(backend.live_flows + (proxy.in_flight || 0)));
        write(speed, short(last(key)) + "/s"); write(p99, span(last(key + "~")));
        for (const cell of [weight, active, speed, p99]) look(cell, "n");
        spark(line.firstChild, key, backend.state === "up" ? "blue" : "red");
      });
    });
    if (!status.services.length && !$("services").querySelector(".empty")) $("services").append(make("p", { class: "empty" }, "No services are configured."));
  }

  function head(status) {
    const { daemon, config } = status;
    write($("phase"), daemon.phase); look($("phase"), "pill " + (daemon.phase === "serving" ? "up" : "warn"));
    const facts = [["version", daemon.version], ["up", span(status.read_at_seconds - daemon.started_at_seconds)], ["configuration", `generation ${config.generation}, ${span(Math.max(0, status.read_at_seconds - config.loaded_at_seconds))} ago`]];
    if (status.interfaces.length) facts.push(["flows", `${short(status.flow_table.entries)} of ${short(status.flow_table.capacity)}`]);
    keyed($("facts"), facts, ([name]) => name, ([name]) => make("div", {}, make("dt", {}, name), make("dd")), (one, [, text]) => write(one.lastChild, text));
    const unsaved = (config.unsaved || []).length;
    const notice = !config.last_reload_successful ? "The last reload was refused: " + (config.last_reload_error || "") :
      unsaved ? `${unsaved} ${unsaved === 1 ? "change" : "changes"} in force and not in the file: ${config.unsaved.slice(0, 3).join("; ")}${unsaved > 3 ? "; …" : ""}` : "";
    write($("notice"), notice); $("notice").hidden = !notice;
    write($("footer"), `${config.path} · etag ${config.etag} · read ${clock(status.read_at_seconds)}`);
  }

  let status = null;
  function draw() {
    if (!status) return;
    head(status); tiles();
    plot("requests", [["requests", "all", "blue"], ["errors", "5xx", "red"]], (value) => short(value) + "/s");
    plot("latency", [["p99", "p99", "violet"], ["p90", "p90", "amber"], ["p50", "p50", "green"]], span);
    plot("octets", [["sent", "sent", "blue"], ["received", "received", "green"]], (value) => octets(value || 0) + "/s");
    services(status); listeners(status);
    document.documentElement.dataset.looks = String((series.get("requests") || []).length);
  }

  let paused = false;
  async function look_once() {
    if (paused || document.hidden && status) return;
    try {
      const answer = await fetch(api("/api/v1/status"), { cache: "no-store" });
      if (!answer.ok) throw new Error("HTTP " + answer.status);
      status = await answer.json();
      learn(status); draw();
    } catch (error) {
      write($("phase"), "unreachable"); look($("phase"), "pill down");
      write($("notice"), "The daemon does not answer (" + error.message + "). Trying again."); $("notice").hidden = false;
    }
  }
  (async () => { for (;;) { const begun = performance.now(); await look_once(); await new Promise((done) => setTimeout(done, Math.max(100, PERIOD - (performance.now() - begun)))); } })();

  // ---- Events: the browser itself goes on after the last one when the connection is lost.
  const COLOURS = { health: "green", ejection: "red", drain: "amber", config: "blue", listener: "violet", certificate: "violet", guard: "red", log: "blue", daemon: "green" };
  let seen = 0;
  function happened(message) {
    const event = JSON.parse(message.data);
    const topic = make("span", { class: "topic " + (COLOURS[event.topic] || "blue") }, event.topic);
    $("events").prepend(make("li", {}, make("time", { datetime: new Date(event.time_seconds * 1000).toISOString() }, clock(event.time_seconds)), topic, make("span", {}, event.message)));
    while ($("events").children.length > EVENTS) $("events").lastChild.remove();
    write($("n-events"), String(++seen));
  }
  const source = new EventSource(api("/api/v1/events?past=true"));
  for (const topic of Object.keys(COLOURS)) source.addEventListener(topic, happened);

  // ---- Keys and buttons.
  const root = document.documentElement;
  function theme(name) { root.dataset.theme = name; }
  const asked = new URLSearchParams(location.search).get("theme");
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* not allowed: then it is not kept */ }
  theme(asked || kept || (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));
  function toggle_theme() {
    theme(root.dataset.theme === "dark" ? "light" : "dark");
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* as above */ }
  }
  function toggle_pause() { paused = !paused; $("pause").setAttribute("aria-pressed", String(paused)); write($("pause"), paused ? "Resume" : "Pause"); }
  $("theme").addEventListener("click", toggle_theme);
  $("pause").addEventListener("click", toggle_pause);
  $("filter").addEventListener("input", draw);
  document.addEventListener("keydown", (event) => {
    if (event.target === $("filter")) { if (event.key === "Escape") { $("filter").value = ""; draw(); $("filter").blur(); } return; }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); $("filter").focus(); }
    if (event.key === "p") toggle_pause();
    if (event.key === "t") toggle_theme();
  });
})();
