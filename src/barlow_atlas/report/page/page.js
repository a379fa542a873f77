"use strict";
// The page's behaviour: the curve and its controls, sorting, the theme, a live study's status.
// Text from the data goes into the page as text nodes only.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function shape(name, attributes = {}, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  document.documentElement.classList.add("scripted");
  const distinct = (values) => [...new Set(values)];
  const minus = (text) => text.replace("-", "\u2212");
  const shown = (value) => minus(value.toFixed(2));

  // ---- Colours: those of the figures; on the dark page, too dark ones are lightened. ----

  const DARK_PAPER = [23, 26, 32];

  function luminance(rgb) {
    const [r, g, b] = rgb.map((c) => {
      const x = c / 255;
      return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  function onBothPapers(hex) {
    const own = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    let light = own;
    for (let share = 0; share <= 1; share += 0.05) {
      light = own.map((c) => Math.round(c + (255 - c) * share));
      if ((luminance(light) + 0.05) / (luminance(DARK_PAPER) + 0.05) >= 3.5) break;
    }
    return `light-dark(${hex}, rgb(${light.join(" ")}))`;
  }

  // ---- What is chosen. One object; every control writes into it and the curve is drawn anew. ----

  const SPLITS = { test: "Test", validation: "Validation" };
  const METRICS = { top1: "Top-1", top5: "Top-5" };
  const PROBES = { linear: "Linear", online_linear: "Online linear", knn: "kNN", transfer: "Transfer", fine_tuned: "Fine-tuning" };
  const probeOf = (line) => JSON.stringify([line.probe, line.variant]);
  const PROBE_ORDER = ["linear", "knn"];

  let lines = page.curve.lines;
  const chosen = {
    study: null, probe: null, protocol: null, width: "all", split: "test", metric: "top1",
    hidden: new Set(), axis: "linear", range: "all", seeds: true, band: true, smooth: 1, epoch: null,
    zoom: null,
  };

  const inStudy = () => lines.filter((line) => line.study === chosen.study);

  function rank(line) {
    const at = PROBE_ORDER.indexOf(line.probe);
    return at < 0 ? PROBE_ORDER.length : at;
  }

  function probes() {
    return distinct([...inStudy()].sort((a, b) => rank(a) - rank(b)).map(probeOf));
  }

  // Keeps every choice among those that there are.
  function settle() {
    const pick = (key, options) => {
      if (!options.includes(chosen[key])) chosen[key] = options.length ? options[0] : null;
    };
    const before = [chosen.study, chosen.probe].join();
    pick("study", distinct(lines.map((line) => line.study)));
    pick("probe", probes());
    pick("protocol", distinct(inStudy().map((line) => line.protocol)));
    pick("width", ["all", ...distinct(inStudy().map((line) => String(line.embedding_dim)))]);
    pick("split", Object.keys(SPLITS).filter((split) => candidates().some((l) => l.curves[split])));
    pick("metric", Object.keys(METRICS).filter((metric) =>
      candidates().some((line) => line.curves[chosen.split]?.[metric])));
    if (before !== [chosen.study, chosen.probe].join()) chosen.zoom = null;
  }

  const candidates = () => inStudy().filter((line) =>
    probeOf(line) === chosen.probe && line.protocol === chosen.protocol);

  function drawn() {
    return candidates()
      .filter((line) => chosen.width === "all" || String(line.embedding_dim) === chosen.width)
      .filter((line) => !chosen.hidden.has(line.method))
      .map((line) => ({ line, curve: line.curves[chosen.split]?.[chosen.metric] }))
      .filter(({ curve }) => curve);
  }

  // ---- Controls ----

  const fieldset = (legend, group) =>
    element("fieldset", {}, element("legend", {}, legend), group);

  function radios(key, legend, options) {
    const group = element("div", { class: "segments" });
    for (const [value, text] of Object.entries(options)) {
      const input = element("input", { type: "radio", name: key, value, id: `${key}-${value}` });
      input.checked = chosen[key] === value;
      input.addEventListener("change", () => { chosen[key] = value; update(); });
      group.append(input, element("label", { for: input.id }, text));
    }
    return fieldset(legend, group);
  }

  function select(key, legend, options, convert = String) {
    const input = element("select", { id: `choose-${key}` });
    for (const [value, text] of options) input.append(element("option", { value }, text));
    input.value = String(chosen[key]);
    input.addEventListener("change", () => { chosen[key] = convert(input.value); update(); });
    return element("div", { class: "choice" },
      element("label", { for: input.id }, legend), input);
  }

  function checkbox(id, checked, change, ...label) {
    const input = element("input", { type: "checkbox", id });
    input.checked = checked;
    input.addEventListener("change", () => { change(input.checked); update(); });
    return element("span", { class: "tick" }, input, element("label", { for: id }, ...label));
  }

  function swatch(look) {
    const made = shape("svg", { class: "swatch", viewBox: "0 0 28 12", "aria-hidden": "true" });
    const stroke = shape("path", { d: "M1 6H27", "stroke-width": 2, fill: "none" });
    stroke.setAttribute("stroke-dasharray", look.dash.map((part) => 2 * part).join(" "));
    stroke.style.stroke = onBothPapers(look.colour);
    made.append(stroke, marker(look, 14, 6, 4));
    return made;
  }

  function methodBoxes() {
    const group = element("div", { class: "ticks" });
    distinct(candidates().map((line) => line.method)).forEach((method, at) => {
      const { look } = candidates().find((line) => line.method === method);
      group.append(checkbox(`method-${at}`, !chosen.hidden.has(method), (on) => {
        if (on) chosen.hidden.delete(method); else chosen.hidden.add(method);
      }, swatch(look), method));
    });
    return fieldset("Methods", group);
  }

  function quiet(text, act, attributes = {}) {
    const button = element("button", { type: "button", class: "quiet", ...attributes }, text);
    button.addEventListener("click", () => act(button));
    return button;
  }

  function zoomed() {
    return chosen.zoom ? [quiet(`Epochs ${chosen.zoom.join(" to ")}: show all`, () => {
      chosen.zoom = null;
      update();
    }, { id: "zoom" })] : [];
  }

  function buildControls() {
    const focused = document.activeElement?.id;
    const studies = distinct(lines.map((line) => line.study));
    const widths = distinct(inStudy().map((line) => line.embedding_dim)).sort((a, b) => a - b);
    const protocols = distinct(inStudy().map((line) => line.protocol));
    const splits = Object.entries(SPLITS).filter(([split]) =>
      candidates().some((line) => line.curves[split]));
    const row = [];
    if (studies.length > 1) {
      row.push(select("study", "Study", studies.map((name) => [name, page.titles[name] ?? name])));
    }
    row.push(select("probe", "Probe", probes().map((probe) => {
      const [kind, variant] = JSON.parse(probe);
      return [probe, `${PROBES[kind] ?? kind}: ${variant}`];
    })));
    if (widths.length > 1) {
      row.push(select("width", "Embedding width",
        [["all", "all"], ...widths.map((width) => [String(width), String(width)])]));
    }
    if (protocols.length > 1) {
      row.push(select("protocol", "Protocol", protocols.map((name) => [name, name])));
    }
    row.push(select("smooth", "Smoothing",
      [["1", "off"], ["3", "over 3 milestones"], ["5", "over 5 milestones"]], Number));
    const shows = fieldset("Show", element("div", { class: "ticks" },
      checkbox("show-band", chosen.band, (on) => { chosen.band = on; }, "95 % interval"),
      checkbox("show-seeds", chosen.seeds, (on) => { chosen.seeds = on; }, "single seeds")));
    byId("controls").replaceChildren(
      element("div", { class: "row" }, ...row),
      element("div", { class: "row" }, radios("split", "Images", Object.fromEntries(splits)),
        radios("metric", "Accuracy", METRICS),
        radios("axis", "Epoch axis", { linear: "Linear", log: "Log" }),
        radios("range", "Range", { all: "All", top: "Top 5 points" })),
      element("div", { class: "row" }, methodBoxes(), shows, ...zoomed()),
    );
    if (focused) byId(focused)?.focus({ preventScroll: true });
  }

  // ---- Scales ----

  // Linear up to the first milestone after 0, logarithmic beyond, as in the figures.
  function symlog(first) {
    return (epoch) => (epoch <= first ? 0.4 * epoch / first : 0.4 + Math.log10(epoch / first));
  }

  function niceTicks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough);
    const ticks = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9; k += 1) ticks.push(k * step);
    return { ticks, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  }

  // The part of a curve at these epochs.
  function within(curve, epochs) {
    const at = curve.epoch.flatMap((epoch, place) => (epochs.includes(epoch) ? [place] : []));
    const cut = (values) => at.map((place) => values[place]);
    return { mean: cut(curve.mean), low: cut(curve.low), high: cut(curve.high),
      seeds: Object.values(curve.seeds).map(cut) };
  }

  function extent(curves) {
    const all = curves.flatMap((curve) => [
      ...curve.mean,
      ...(chosen.band ? [...curve.low, ...curve.high] : []),
      ...(chosen.seeds ? curve.seeds.flat() : []),
    ]).filter((value) => value !== null);
    const best = Math.max(...curves.flatMap((curve) => curve.mean));
    const high = Math.min(100, Math.max(...all));
    const low = chosen.range === "top" ? best - 5 : Math.max(0, Math.min(...all));
    const margin = Math.max(0.04 * (high - low), 0.05);
    return [Math.max(0, low - (chosen.range === "top" ? 0 : margin)), high + margin];
  }

  // Mean over up to `width` neighbouring milestones, fewer at the ends.
  function smoothed(values, width) {
    const reach = (width - 1) / 2;
    return values.map((_, at) => {
      const near = values.slice(Math.max(0, at - reach), at + reach + 1);
      return near.reduce((sum, value) => sum + value, 0) / near.length;
    });
  }

  // ---- Drawing ----

  const POLYGONS = {
    s: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
    "^": [[0, -1.2], [1.15, 0.9], [-1.15, 0.9]],
    v: [[0, 1.2], [1.15, -0.9], [-1.15, -0.9]],
    "<": [[-1.2, 0], [0.9, 1.15], [0.9, -1.15]],
    ">": [[1.2, 0], [-0.9, 1.15], [-0.9, -1.15]],
    D: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
    P: [[-0.4, -1.1], [0.4, -1.1], [0.4, -0.4], [1.1, -0.4], [1.1, 0.4], [0.4, 0.4], [0.4, 1.1],
      [-0.4, 1.1], [-0.4, 0.4], [-1.1, 0.4], [-1.1, -0.4], [-0.4, -0.4]],
  };
  POLYGONS.X = POLYGONS.P.map(([x, y]) => [(x - y) * 0.75, (x + y) * 0.75]);
  POLYGONS["*"] = Array.from({ length: 10 }, (_, k) => {
    const size = k % 2 ? 0.55 : 1.35;
    return [size * Math.sin(k * Math.PI / 5), -size * Math.cos(k * Math.PI / 5)];
  });

  function marker(look, x, y, size) {
    const corners = POLYGONS[look.marker];
    const made = corners
      ? shape("path", { d: `M${corners.map(([a, b]) =>
        `${(x + a * size * 0.9).toFixed(2)} ${(y + b * size * 0.9).toFixed(2)}`).join("L")}Z` })
      : shape("circle", { cx: x.toFixed(2), cy: y.toFixed(2), r: size });
    const colour = onBothPapers(look.colour);
    made.setAttribute("class", "marker");
    made.style.stroke = colour;
    made.style.fill = look.fill === "full" ? colour : "var(--paper)";
    return made;
  }

  const path = (points) => points.map(([x, y], at) =>
    `${at ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");

  // A curve with gaps: a piece for each stretch of milestones that there are.
  function pieces(points) {
    const found = [[]];
    for (const point of points) {
      if (point[1] === null) found.push([]); else found.at(-1).push(point);
    }
    return found.filter((piece) => piece.length).map(path).join("");
  }

  const label = ({ line }) => {
    const others = candidates();
    const told = (key, words) => (line[key] && new Set(others.filter((o) =>
      o.method === line.method).map((o) => o[key])).size > 1 ? `, ${words(line[key])}` : "");
    return line.method + told("embedding_dim", (d) => `d = ${d}`)
      + told("epochs", (n) => `${n} epochs`) + told("objective", (text) => text)
      + told("setting", (text) => text);
  };

  let place = null; // scales of the present drawing, for the pointer

  function draw() {
    const plot = byId("plot");
    const series = drawn();
    tell(series);
    if (!series.length) {
      place = null;
      plot.replaceChildren(element("p", { class: "empty" }, lines.length
        ? "No curve fits this choice." : "No milestone has been probed yet."));
      readout(series);
      numbers(series);
      return;
    }
    const width = Math.max(260, plot.clientWidth);
    const height = Math.round(Math.min(460, Math.max(280, width * 0.5)));
    const box = { left: 46, right: width - 14, top: 14, bottom: height - 44 };
    const all = distinct(series.flatMap(({ curve }) => curve.epoch)).sort((a, b) => a - b);
    const inside = all.filter((epoch) =>
      !chosen.zoom || (epoch >= chosen.zoom[0] && epoch <= chosen.zoom[1]));
    const epochs = inside.length > 1 ? inside : all;
    const scale = chosen.axis === "log"
      ? symlog(epochs.find((epoch) => epoch > 0) ?? 1) : (epoch) => epoch;
    const [from, to] = [scale(epochs[0]), scale(epochs.at(-1))];
    const x = (epoch) => (to > from
      ? box.left + 8 + (scale(epoch) - from) / (to - from) * (box.right - box.left - 16)
      : (box.left + box.right) / 2);
    const [low, high] = extent(series.map(({ curve }) => within(curve, epochs)));
    const y = (value) => box.bottom - (value - low) / (high - low) * (box.bottom - box.top);

    const svg = shape("svg", {
      viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true", focusable: "false",
    });
    svg.append(shape("title", {}, "Accuracy against pre-training epoch"));
    const clip = shape("clipPath", { id: "inside" }, shape("rect", {
      x: box.left, y: 0, width: box.right + 10 - box.left, height: box.bottom,
    }));
    svg.append(shape("defs", {}, clip), axes(box, epochs, x, y, low, high));
    const area = shape("g", { "clip-path": "url(#inside)" });
    for (const { line, curve } of series) {
      const colour = onBothPapers(line.look.colour);
      const bounded = curve.epoch.map((epoch, at) => [epoch, curve.low[at], curve.high[at]])
        .filter(([, bottom]) => bottom !== null);
      if (chosen.band && bounded.length) {
        const band = shape("path", {
          class: "band",
          d: `${path([...bounded.map(([epoch, , top]) => [x(epoch), y(Math.min(100, top))]),
            ...bounded.reverse().map(([epoch, bottom]) => [x(epoch), y(Math.max(0, bottom))])])}Z`,
        });
        band.style.fill = colour;
        area.append(band);
      }
      if (chosen.seeds) {
        for (const values of Object.values(curve.seeds)) {
          const thin = shape("path", { class: "seed", d: pieces(values.map((value, at) =>
            [x(curve.epoch[at]), value === null ? null : y(value)])) });
          thin.style.stroke = colour;
          area.append(thin);
        }
      }
    }
    const marks = [];
    for (const { line, curve } of series) {
      const colour = onBothPapers(line.look.colour);
      const means = chosen.smooth > 1 ? smoothed(curve.mean, chosen.smooth) : curve.mean;
      const points = means.map((value, at) => [x(curve.epoch[at]), y(value)]);
      const mean = shape("path", { class: "mean", d: path(points) });
      mean.dataset.method = line.method;
      mean.dataset.width = line.embedding_dim;
      mean.style.stroke = colour;
      mean.setAttribute("stroke-dasharray", line.look.dash.map((part) => 2.4 * part).join(" "));
      area.append(mean, ...points.map(([a, b]) => marker(line.look, a, b, 3.4)));
      const peak = curve.epoch.indexOf(line.peak);
      if (peak >= 0) {
        const ring = shape("circle", {
          class: "peak", cx: points[peak][0].toFixed(2), cy: points[peak][1].toFixed(2), r: 8.5,
        });
        ring.style.stroke = colour;
        area.append(ring);
      }
      marks.push({ line, curve, points });
    }
    const guide = shape("line", { class: "guide", y1: box.top, y2: box.bottom });
    const spots = shape("g", {});
    const brush = shape("rect", { class: "brush", y: box.top, height: box.bottom - box.top });
    svg.append(guide, area, spots, brush);
    plot.replaceChildren(svg);
    place = { epochs, x, guide, spots, marks, box, brush };
    plot.setAttribute("aria-valuemax", epochs.length - 1);
    if (!epochs.includes(chosen.epoch)) chosen.epoch = epochs.at(-1);
    point();
    readout(series);
    numbers(series);
  }

  function axes(box, epochs, x, y, low, high) {
    const made = shape("g", { class: "axes" });
    const { ticks, digits } = niceTicks(low, high, Math.max(3, (box.bottom - box.top) / 60));
    for (const tick of ticks) {
      const at = y(tick).toFixed(2);
      made.append(
        shape("line", { class: "grid", x1: box.left, x2: box.right, y1: at, y2: at }),
        shape("text", { x: box.left - 8, y: at, dy: "0.32em", "text-anchor": "end" },
          tick.toFixed(digits)),
      );
    }
    made.append(shape("line", {
      class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom,
    }));
    let taken = -Infinity;
    for (const epoch of epochs) {
      const at = x(epoch);
      const room = 7 * String(epoch).length + 10;
      made.append(shape("line", {
        class: "axis", x1: at, x2: at, y1: box.bottom, y2: box.bottom + 4,
      }));
      if (at - room / 2 < taken) continue;
      taken = at + room / 2;
      made.append(shape("text", { x: at, y: box.bottom + 18, "text-anchor": "middle" }, String(epoch)));
    }
    made.append(shape("text", {
      class: "name", x: (box.left + box.right) / 2, y: box.bottom + 38, "text-anchor": "middle",
    }, "pre-training epoch"));
    return made;
  }

  // What the drawing shows, in words.
  function tell(series) {
    const { line } = series[0] ?? {};
    const words = line ? [
      `${SPLITS[chosen.split]} ${METRICS[chosen.metric].toLowerCase()} accuracy in percent`,
      `protocol ${line.protocol}`, line.setting,
      chosen.band && series.some(({ curve }) => curve.low.some((value) => value !== null))
        ? "band: 95 % t interval over seeds on these images" : null,
      series.every(({ curve }) => curve.n.every((n) => n < 2))
        ? "one seed, so there is no interval" : null,
      series.some((entry) => entry.line.peak !== null)
        ? "ring: peak of the mean validation curve" : null,
    ] : [];
    const told = byId("told");
    told.textContent = words.filter(Boolean).join(" · ");
    if (chosen.smooth > 1 && line) {
      told.append(element("strong", { class: "smoothed" },
        ` Smoothed: the lines are means over ${chosen.smooth} milestones. Bands, seeds and the `
        + "values below stay as measured."));
    }
  }

  // ---- Reading values ----

  function point() {
    const plot = byId("plot");
    if (!place) return;
    const at = place.epochs.indexOf(chosen.epoch);
    plot.setAttribute("aria-valuenow", at);
    plot.setAttribute("aria-valuetext", spoken());
    place.spots.replaceChildren();
    const x = place.x(chosen.epoch).toFixed(2);
    place.guide.setAttribute("x1", x);
    place.guide.setAttribute("x2", x);
    for (const { line, curve, points } of place.marks) {
      const index = curve.epoch.indexOf(chosen.epoch);
      if (index < 0 || points[index][1] > place.box.bottom) continue;
      place.spots.append(marker({ ...line.look, fill: "full" }, ...points[index], 5.5));
    }
  }

  // What a listener needs of an epoch: few words.
  function spoken() {
    const told = place.marks.flatMap((entry) => {
      const found = values(entry, chosen.epoch);
      return found ? [`${label(entry)} ${found.mean}`] : [];
    });
    return `epoch ${chosen.epoch}: ${told.slice(0, 4).join(", ")}`;
  }

  // The values of an epoch beside the pointer, within the drawing.
  function showTip() {
    const tip = byId("tip");
    tip.hidden = !place;
    if (!place) return;
    tip.replaceChildren(element("strong", {}, `Epoch ${chosen.epoch}`),
      ...place.marks.flatMap((entry) => {
        const found = values(entry, chosen.epoch);
        return found ? [element("div", {}, swatch(entry.line.look), `${label(entry)} ${found.mean}`)]
          : [];
      }));
    const at = place.x(chosen.epoch);
    const left = at + 14 + tip.offsetWidth > place.box.right ? at - 14 - tip.offsetWidth : at + 14;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${place.box.bottom - tip.offsetHeight - 8}px`;
  }

  function values({ curve }, epoch) {
    const at = curve.epoch.indexOf(epoch);
    if (at < 0) return null;
    const seeds = Object.entries(curve.seeds).filter(([, list]) => list[at] !== null);
    return {
      mean: shown(curve.mean[at]),
      interval: curve.low[at] === null ? "no interval"
        : `${shown(curve.low[at])} to ${shown(curve.high[at])}`,
      n: curve.n[at],
      seeds: seeds.map(([seed, list]) => `${seed}: ${shown(list[at])}`).join(", "),
    };
  }

  function cells(entry, found) {
    return [found.mean, found.interval, String(found.n), found.seeds]
      .map((text, at) => element("td", at === 3 ? { class: "seeds" } : {}, text));
  }

  function heads(first) {
    return element("thead", {}, element("tr", {},
      ...[...first, "Mean %", "95 % interval", "n", "Seeds"].map((text) =>
        element("th", { scope: "col" }, text))));
  }

  function readout(series) {
    const target = byId("readout");
    if (!series.length) {
      target.replaceChildren();
      return;
    }
    const rows = series.map((entry) => [entry, values(entry, chosen.epoch)])
      .filter(([, found]) => found)
      .map(([entry, found]) => element("tr", {},
        element("th", { scope: "row" }, swatch(entry.line.look), label(entry)),
        ...cells(entry, found)));
    target.replaceChildren(element("table", {},
      element("caption", {}, `Epoch ${chosen.epoch}`,
        element("span", { class: "hint" },
          "point at the curve, or use the arrow keys on it; draw over it to zoom")), heads(["Line"]),
      element("tbody", {}, ...rows)));
  }

  function numbers(series) {
    const target = byId("numbers-table");
    if (!byId("numbers").open) {
      target.replaceChildren();
      return;
    }
    const rows = series.flatMap((entry) => entry.curve.epoch.map((epoch) =>
      element("tr", {}, element("th", { scope: "row" }, label(entry)),
        element("td", {}, String(epoch)), ...cells(entry, values(entry, epoch)))));
    const table = element("table", {}, element("caption", { class: "hidden" }, byId("told").textContent),
      heads(["Line", "Epoch"]), element("tbody", {}, ...rows));
    target.replaceChildren(table);
    sortable(table);
  }

  function goTo(epoch) {
    if (epoch === chosen.epoch) return;
    chosen.epoch = epoch;
    point();
    readout(drawn());
  }

  const inPlot = (event) =>
    event.clientX - byId("plot").querySelector("svg").getBoundingClientRect().left;

  const closest = (at) => place.epochs.reduce((best, epoch) =>
    (Math.abs(place.x(epoch) - at) < Math.abs(place.x(best) - at) ? epoch : best));

  function nearest(event) {
    if (!place) return;
    goTo(closest(inPlot(event)));
    showTip();
    if (brushedFrom === null) return;
    const ends = [brushedFrom, inPlot(event)].sort((a, b) => a - b);
    place.brush.setAttribute("x", ends[0]);
    place.brush.setAttribute("width", ends[1] - ends[0]);
  }

  // Drawing over the curve with a mouse zooms into what is drawn over; a finger scrolls the page.
  let brushedFrom = null;
  const LEAST = 12;

  function startBrush(event) {
    nearest(event);
    if (place && event.pointerType === "mouse") brushedFrom = inPlot(event);
  }

  function endBrush(event) {
    if (brushedFrom === null) return;
    const ends = [brushedFrom, inPlot(event)].sort((a, b) => a - b);
    brushedFrom = null;
    const zoom = ends.map(closest);
    if (ends[1] - ends[0] >= LEAST && zoom[0] < zoom[1]) chosen.zoom = zoom;
    update();
  }

  function step(event) {
    if (!place) return;
    const last = place.epochs.length - 1;
    const at = place.epochs.indexOf(chosen.epoch);
    const next = {
      ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: last,
      PageUp: at + 5, PageDown: at - 5,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    goTo(place.epochs[Math.min(last, Math.max(0, next))]);
    showTip();
  }

  function update() {
    settle();
    buildControls();
    draw();
  }

  // ---- Tables: click on a head, or Enter on its button, sorts. ----

  const sortKey = (cell) => cell?.dataset.sort ?? cell?.textContent.trim() ?? "";

  // Empty cells and those without a number come last, whichever way the column is sorted.
  function compare(a, b, direction) {
    const [x, y] = [a, b].map((text) => (text === "" ? NaN : Number(text)));
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
    if (!Number.isNaN(x)) return direction * (x - y);
    if ((a === "") !== (b === "")) return a === "" ? 1 : -1;
    return direction * a.localeCompare(b, "en", { numeric: true });
  }

  function sortable(table) {
    const head = table.tHead?.rows[table.tHead.rows.length - 1];
    if (!head || !table.tBodies.length) return;
    [...head.cells].forEach((cell, column) => {
      if (cell.colSpan > 1) return;
      let button = cell.querySelector("button");
      if (!button) {
        button = element("button", { type: "button" });
        button.append(...cell.childNodes);
        cell.append(button);
      }
      button.addEventListener("click", () => {
        const up = cell.getAttribute("aria-sort") !== "ascending";
        for (const other of head.cells) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", up ? "ascending" : "descending");
        for (const body of table.tBodies) {
          body.append(...[...body.rows].sort((a, b) =>
            compare(sortKey(a.cells[column]), sortKey(b.cells[column]), up ? 1 : -1)));
        }
      });
    });
  }

  // ---- Tables: rows of one kind, and copies. ----

  // Of a column with more kinds, or longer words, none is offered as a filter.
  const KINDS = 6;
  const LONG = 40;

  function toolsFor(table) {
    // Of a cell that unfolds, the whole text and not its first words too.
    const words = (cell) => (cell.querySelector("details > span") ?? cell).textContent.replace(/\s+/g, " ").trim();
    const heads = [...table.tHead.rows[0].cells];
    const shownRows = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
    const grid = () => [heads.map(words), ...shownRows().map((row) => [...row.cells].map(words))];
    const kept = new Map();
    const filter = () => [...table.tBodies[0].rows].forEach((row) => {
      row.hidden = [...kept].some(([column, text]) => words(row.cells[column]) !== text);
    });
    const tools = element("div", { class: "tools" });
    heads.forEach((head, column) => {
      const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
      if (!cells.length || cells.some((cell) => !cell || cell.dataset.sort)) return;
      const kinds = distinct(cells.map(words));
      if (kinds.length < 2 || kinds.length > KINDS || kinds.length === cells.length) return;
      if (kinds.some((text) => text.length > LONG)) return;
      tools.append(element("span", {}, words(head)), ...kinds.map((text) => quiet(text || "none",
        (button) => {
          const on = kept.get(column) !== text;
          for (const other of tools.querySelectorAll(`[data-column="${column}"]`)) {
            other.setAttribute("aria-pressed", "false");
          }
          if (on) kept.set(column, text); else kept.delete(column);
          button.setAttribute("aria-pressed", String(on));
          filter();
        }, { "aria-pressed": "false", "data-column": column })));
    });
    const copy = (name, written) => quiet(`Copy ${name}`, async (button) => {
      const done = await navigator.clipboard?.writeText(written(grid())).then(() => true, () => false);
      button.textContent = done ? "Copied" : "Not allowed here";
      setTimeout(() => { button.textContent = `Copy ${name}`; }, 1500);
    });
    tools.append(element("span", {}, "rows shown"), copy("CSV", asCsv), copy("LaTeX", asLatex));
    return tools;
  }

  const asCsv = (rows) => rows.map((row) => row.map((text) =>
    (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)).join(",")).join("\n");

  const LATEX = { "\u2212": "$-$", "\u00b1": "$\\pm$", "\u221e": "$\\infty$", "\\": "\\textbackslash{}" };

  function asLatex(rows) {
    const safe = (text) => text.replace(/[&%$#_{}\\\u2212\u00b1\u221e]/g, (sign) =>
      LATEX[sign] ?? `\\${sign}`);
    const lines = rows.map((row) => `${row.map(safe).join(" & ")} \\\\`);
    return [`\\begin{tabular}{${"l".repeat(rows[0].length)}}`, "\\toprule", lines[0], "\\midrule",
      ...lines.slice(1), "\\bottomrule", "\\end{tabular}"].join("\n");
  }

  // ---- Theme: the system's, until the button says otherwise; kept for as long as the page. ----

  function startTheme() {
    const button = byId("theme");
    button.hidden = false;
    const system = matchMedia("(prefers-color-scheme: dark)");
    let dark = system.matches;
    let asked = false;
    const show = () => {
      if (asked) document.documentElement.dataset.theme = dark ? "dark" : "light";
      button.setAttribute("aria-pressed", String(dark));
    };
    button.addEventListener("click", () => { dark = !dark; asked = true; show(); });
    system.addEventListener("change", () => { if (!asked) { dark = system.matches; show(); } });
    show();
  }

  // ---- A study under way ----

  const EVERY = 3000;

  function timeLeft(seconds) {
    if (seconds === null) return "time left not known yet";
    const minutes = Math.round(seconds / 60);
    if (minutes < 1) return "less than a minute left";
    return minutes < 60 ? `about ${minutes} min left`
      : `about ${Math.floor(minutes / 60)} h ${minutes % 60} min left`;
  }

  // The last losses that a running step has told.
  function spark(losses) {
    if (losses.length < 2) return [];
    const low = Math.min(...losses);
    const reach = Math.max(...losses) - low || 1;
    const drawn = losses.map((loss, at) =>
      [100 * at / (losses.length - 1), 1 + 18 * (1 - (loss - low) / reach)]);
    const made = shape("svg", { class: "spark", viewBox: "0 0 100 20", role: "img",
      preserveAspectRatio: "none" });
    made.append(shape("title", {}, `Loss ${losses.at(-1).toPrecision(4)}`),
      shape("path", { d: path(drawn) }));
    return [made, ` loss ${losses.at(-1).toPrecision(4)}`];
  }

  const title = document.title;
  let failedShown = "[]";
  const partsShown = {};

  // The server's own templates made these parts, as they made the page.
  function showParts(parts) {
    for (const [id, html] of Object.entries(parts ?? {})) {
      if (partsShown[id] !== html) byId(id).innerHTML = html;
      partsShown[id] = html;
    }
  }

  function showStatus(status) {
    const parts = [`${status.done} of ${status.total} jobs done`, `${status.running} running`,
      `${status.queued} queued`];
    if (status.failed) parts.push(`${status.failed} failed`);
    parts.push(status.finished ? "finished: load the page anew for figures and tables"
      : timeLeft(status.seconds_left));
    const told = parts.join(" · ");
    // Only a change is announced; the clock alone is none.
    if (byId("live-text").textContent !== told) byId("live-text").textContent = told;
    const state = status.finished ? "Finished" : status.running ? "Running"
      : status.snakemake ? "Between jobs" : "Snakemake does not run here";
    document.title = `${Math.floor(100 * status.done / Math.max(1, status.total))} % \u00b7 ${title}`;
    byId("live-title").textContent = `${state}, ${status.updated}`;
    byId("live-progress").max = Math.max(1, status.total);
    byId("live-progress").value = status.done;
    byId("live-machine").textContent = status.machine ?? "";
    byId("live-now").replaceChildren(...status.running_now.map((text, at) =>
      element("li", {}, text, ...spark(status.losses_now?.[at] ?? []))));
    // As high as it ever was: a job that ends moves nothing below it.
    byId("live-now").style.minHeight = `${byId("live-now").offsetHeight}px`;
    const failed = JSON.stringify(status.failed_now ?? []);
    if (failed === failedShown) return;
    failedShown = failed;
    byId("live-failed").replaceChildren(...(status.failed_now ?? []).map((one) => element("li", {},
      element("details", {}, element("summary", {}, `Failed: ${one.name}`),
        element("pre", { tabindex: 0 }, one.said.join("\n")),
        element("p", {}, "This tries it again:"),
        element("pre", { tabindex: 0 }, one.command)))));
  }

  async function ask(name) {
    const answer = await fetch(name, { cache: "no-store" });
    if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
    return answer.json();
  }

  async function poll() {
    let finished = false;
    try {
      const [status, curve] = await Promise.all([ask("status.json"), ask("data.json")]);
      showStatus(status);
      showParts(curve.parts);
      finished = status.finished;
      if (JSON.stringify(curve.lines) !== JSON.stringify(lines)) {
        lines = curve.lines;
        update();
      }
    } catch {
      byId("live-text").textContent = "No answer from the server; the curve is the last one it sent.";
    }
    if (!finished) setTimeout(poll, EVERY);
  }

  // ---- Start ----

  startTheme();
  update();
  performance.mark("first-curve");
  const plot = byId("plot");
  plot.addEventListener("pointermove", nearest);
  plot.addEventListener("pointerdown", startBrush);
  addEventListener("pointerup", endBrush);
  plot.addEventListener("pointerleave", () => { byId("tip").hidden = true; });
  plot.addEventListener("blur", () => { byId("tip").hidden = true; });
  plot.addEventListener("keydown", step);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("numbers").addEventListener("toggle", () => numbers(drawn()));
  // The script runs before what follows the curve has been read.
  document.addEventListener("DOMContentLoaded", () => {
    for (const table of document.querySelectorAll("main .scroll table:not(.claims)")) {
      sortable(table);
    }
    for (const table of document.querySelectorAll(".table table")) {
      if (table.tHead && table.tBodies.length) table.closest(".scroll").before(toolsFor(table));
    }
  });
  let width = plot.clientWidth;
  new ResizeObserver(() => {
    if (plot.clientWidth === width) return;
    width = plot.clientWidth;
    draw();
  }).observe(plot);
  if (byId("live")) poll();
})();
