/* Values under the pointer or the arrow keys, and the logarithmic axis. */
(() => {
  const number = (value) => (Math.abs(value) < 1e-3 && value !== 0 ? value.toExponential(2) : String(+value.toPrecision(5)));
  for (const chart of document.querySelectorAll(".chart")) {
    const picture = chart.querySelector(":scope > svg");
    const cursor = picture.querySelector(".cursor");
    const readout = chart.querySelector(".readout");
    const last = readout.textContent;
    const series = JSON.parse(picture.dataset.points);
    const places = new Map();  // epoch -> horizontal place
    for (const line of Object.values(series)) { for (const point of line) { places.set(point.at(-2), point[0]); } }
    const epochs = [...places.keys()].sort((a, b) => a - b);
    let current = -1;
    const show = (index) => {
      current = Math.max(0, Math.min(epochs.length - 1, index));
      const epoch = epochs[current];
      cursor.setAttribute("x1", places.get(epoch));
      cursor.setAttribute("x2", places.get(epoch));
      cursor.setAttribute("visibility", "visible");
      const values = Object.entries(series).flatMap(([name, line]) => {
        const point = line.find((candidate) => candidate.at(-2) === epoch);
        return point ? [`${name} ${number(point.at(-1))}`] : [];
      });
      readout.textContent = `epoch ${epoch}: ${values.join(", ")}`;
    };
    const hide = () => { cursor.setAttribute("visibility", "hidden"); readout.textContent = last; current = -1; };
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * picture.viewBox.baseVal.width;
      const distance = (epoch) => Math.abs(places.get(epoch) - x);
      show(epochs.reduce((best, epoch, index) => (distance(epoch) < distance(epochs[best]) ? index : best), 0));
    });
    picture.addEventListener("pointerleave", hide);
    picture.addEventListener("blur", hide);
    picture.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { show(current + step); event.preventDefault(); }
    });
    const toggle = chart.querySelector(".log-toggle");
    toggle?.addEventListener("click", () => {
      const log = toggle.getAttribute("aria-pressed") !== "true";
      toggle.setAttribute("aria-pressed", String(log));
      picture.querySelector(".scale.linear").toggleAttribute("hidden", log);
      picture.querySelector(".scale.log").toggleAttribute("hidden", !log);
    });
  }
})();
