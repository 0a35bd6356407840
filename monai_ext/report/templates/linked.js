/* Linked views: the chosen point of the list is shown in both scans. */
(() => {
  const block = document.getElementById("linked-data");
  if (!block) { return; }
  const { titles, points } = JSON.parse(block.textContent);
  const get = (id) => document.getElementById(id);
  const list = get("points");
  const options = [...list.querySelectorAll("[data-point]")];
  let chosen = 0;

  const show = (figure, view) => {
    const image = figure.querySelector("img");
    image.src = view?.src ?? "data:,";
    image.alt = view?.alt ?? "no picture";
    image.hidden = !view;
    figure.querySelector(".cross").hidden = !view;
    figure.querySelector("figcaption span").textContent = view?.caption ?? "";
    figure.querySelectorAll(".edge").forEach((edge, number) => { edge.textContent = view?.edges[number] ?? ""; });
  };
  const term = (name, text) => { const made = document.createElement(name); made.textContent = text; return made; };
  const choose = (number) => {
    chosen = Math.max(0, Math.min(points.length - 1, number));
    const point = points[chosen];
    options.forEach((option, index) => option.setAttribute("aria-selected", String(index === chosen)));
    list.setAttribute("aria-activedescendant", options[chosen].id);
    options[chosen].scrollIntoView({ block: "nearest" });
    get("chosen").textContent = point.name;
    get("chosen-status").textContent = point.status;
    get("chosen-status").className = `badge ${point.kind}`;
    get("facts").replaceChildren(...point.facts.flatMap(([name, value]) => [term("dt", name), term("dd", value)]));
    document.querySelectorAll(".scan").forEach((scan, side) => {
      get(`scan-${side}`).textContent = titles[point.group][side];
      const missing = scan.querySelector(".nowhere");
      missing.textContent = point.placed[side] ? "Its picture was left out, since this file would be too large." : "No place in this scan.";
      missing.hidden = Boolean(point.views[side]);
      scan.querySelectorAll("figure").forEach((figure) => show(figure, point.views[side]?.[figure.id.split("-")[2]]));
    });
    get("linked").dataset.shown = String(chosen);
  };

  list.addEventListener("click", (event) => {
    const option = event.target.closest("[data-point]");
    if (option) { choose(Number(option.dataset.point)); }
  });
  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) { return; }
    const to = { ArrowDown: chosen + 1, ArrowUp: chosen - 1, Home: 0, End: points.length - 1 }[event.key];
    if (to === undefined) { return; }
    choose(to);
    event.preventDefault();
  });
  choose(0);
})();
