"use strict";
(() => {
  document.documentElement.classList.remove("no-script");
  const data = JSON.parse(document.getElementById("data").textContent);
  const sources = new Map(data.sources.map((s) => [String(s.id), s]));
  const shown = new Map();
  for (const element of document.querySelectorAll("[data-id]")) {
    const id = element.dataset.id;
    if (!shown.has(id)) shown.set(id, []);
    shown.get(id).push(element);
  }
  const listed = new Set();
  const begin = () => {
    listed.clear();
    for (const s of data.sources) if (s.kind === "chosen") listed.add(String(s.id));
  };

  const show = (id) => {
    const source = sources.get(id);
    const inList = listed.has(id);
    const was = source.kind === "chosen";
    const state = inList === was ? "" : inList ? "added" : "vetoed";
    for (const element of shown.get(id) || []) {
      element.setAttribute("aria-pressed", inList);
      element.classList.toggle("vetoed", state === "vetoed");
      element.classList.toggle("added", state === "added");
      const tag = element.querySelector(".tag");
      if (tag) tag.textContent = state;
      element.setAttribute("aria-label", (state ? state + ": " : "") + source.text);
    }
  };

  const count = () => {
    let vetoed = 0;
    let added = 0;
    for (const s of data.sources) {
      const inList = listed.has(String(s.id));
      if (s.kind === "chosen" && !inList) vetoed += 1;
      if (s.kind !== "chosen" && inList) added += 1;
    }
    document.getElementById("count").textContent =
      `${listed.size} stars in the list: ${vetoed} vetoed, ${added} added.`;
    document.getElementById("save").disabled = listed.size === 0;
    document.getElementById("undo").disabled = vetoed + added === 0;
  };

  const toggle = (id) => {
    const source = sources.get(id);
    if (!source || !source.usable) return;
    if (listed.has(id)) listed.delete(id);
    else listed.add(id);
    show(id);
    count();
    tell(id);
    remember();
  };

  // Vetoes outlive a reload of the page; a page made anew of other stars has a list of its own.
  const place = `mlpsf ${location.pathname} ${data.head.length} ${data.sources
    .filter((s) => s.kind === "chosen")
    .map((s) => s.id)}`;
  const remember = () => {
    try {
      localStorage.setItem(place, JSON.stringify([...listed]));
    } catch {
      // Without storage the list lasts as long as the page is open.
    }
  };
  const recall = () => {
    let kept = null;
    try {
      kept = JSON.parse(localStorage.getItem(place));
    } catch {
      return;
    }
    if (!Array.isArray(kept)) return;
    listed.clear();
    for (const id of kept) if (sources.has(id) && sources.get(id).usable) listed.add(id);
    for (const id of sources.keys()) show(id);
  };

  const sheetPlaces = new Map();
  for (const cut of document.querySelectorAll(".card .cut")) {
    sheetPlaces.set(cut.parentElement.dataset.id, cut.style.backgroundPosition);
  }
  const tell = (id) => {
    const source = sources.get(id);
    if (!source) return;
    const state = listed.has(id) === (source.kind === "chosen") ? "" : listed.has(id) ? "Added. " : "Vetoed. ";
    document.getElementById("now").textContent =
      state + source.text + (source.usable ? "." : ". It cannot be used.");
    const cut = document.getElementById("now-cut");
    cut.hidden = !sheetPlaces.has(id);
    cut.style.backgroundPosition = sheetPlaces.get(id) || "";
  };

  document.addEventListener("click", (event) => {
    const hit = event.target.closest("[data-id]");
    if (!hit) return;
    if (hit.classList.contains("card")) rove(hit);
    toggle(hit.dataset.id);
  });

  // One stop of the Tab key for the map and for each group of cutouts; arrow keys within them.
  const rove = (card) => {
    for (const other of card.closest(".cards").querySelectorAll(".card")) other.tabIndex = -1;
    card.tabIndex = 0;
  };
  for (const group of document.querySelectorAll(".cards")) {
    const first = group.querySelector(".card:not(:disabled)");
    if (first) rove(first);
  }
  const map = document.getElementById("map");
  const marks = [...map.querySelectorAll(".mark")];
  const stop = (mark) => {
    for (const other of map.querySelectorAll('[tabindex="0"]')) other.setAttribute("tabindex", "-1");
    mark.setAttribute("tabindex", "0");
  };
  if (marks.length) stop(marks[0]);
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const next = (from, [dx, dy]) => {
    let best = null;
    let least = Infinity;
    for (const mark of marks) {
      const x = mark.dataset.x - from.dataset.x;
      const y = mark.dataset.y - from.dataset.y;
      const along = x * dx + y * dy;
      const across = Math.abs(x * dy) + Math.abs(y * dx);
      const far = along + 2 * across;
      if (mark !== from && along > 0 && across <= 2 * along && far < least) {
        best = mark;
        least = far;
      }
    }
    return best;
  };
  const beside = (card, [dx, dy]) => {
    const cards = [...card.closest(".cards").querySelectorAll(".card:not(:disabled)")];
    const top = cards[0].closest("li").offsetTop;
    const columns = cards.filter((c) => c.closest("li").offsetTop === top).length;
    return cards[cards.indexOf(card) + dx - dy * columns] || null;
  };
  document.addEventListener("keydown", (event) => {
    const hit = event.target.closest("[data-id]");
    if (!hit) return;
    const isMark = hit.classList.contains("mark");
    if (event.key in arrows) {
      const other = (isMark ? next : beside)(hit, arrows[event.key]);
      event.preventDefault();
      if (!other) return;
      (isMark ? stop : rove)(other);
      other.focus();
    } else if (isMark && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      toggle(hit.dataset.id);
    } else if (event.key === "v") {
      toggle(hit.dataset.id);
    }
  });
  for (const name of ["focusin", "pointerover"]) {
    map.addEventListener(name, (event) => {
      const hit = event.target.closest("[data-id]");
      if (hit) tell(hit.dataset.id);
    });
  }
  map.addEventListener("focusin", (event) => {
    if (event.target.closest(".mark")) stop(event.target);
  });

  // One way of showing the cutouts at a time.
  const ways = document.querySelectorAll("[data-show]");
  for (const way of ways) {
    way.addEventListener("click", () => {
      const on = way.getAttribute("aria-pressed") !== "true";
      for (const other of ways) {
        const shown = on && other === way;
        document.body.classList.toggle(other.dataset.show, shown);
        other.setAttribute("aria-pressed", shown);
      }
    });
  }
  document.getElementById("undo").addEventListener("click", () => {
    begin();
    for (const id of sources.keys()) show(id);
    count();
    remember();
  });
  document.getElementById("save").addEventListener("click", () => {
    const lines = data.sources.filter((s) => listed.has(String(s.id))).map((s) => s.line);
    const file = new Blob([data.head, ...lines], { type: "text/plain" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = "list.ecsv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  begin();
  recall();
  count();
})();
