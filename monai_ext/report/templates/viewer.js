/* The slice viewer: draws one tile of the sheets of slices, and lays the chosen overlay over it. */
(() => {
  const block = document.getElementById("viewer-data");
  if (!block) { return; }
  const views = JSON.parse(block.textContent);
  const get = (id) => document.getElementById(id);
  const [slider, choice, opacity, stage, profile] = ["slice", "view", "opacity", "stage", "profile"].map(get);
  const radios = [...document.querySelectorAll('input[name="layer"]')];
  const sheets = new Map();  // address -> promise of a decoded picture
  const scale = 2;  // canvas pixels per stored pixel, so that smoothing has room
  let drawn = 0;

  const load = (address) => {
    if (!sheets.has(address)) {
      const picture = new Image();
      picture.src = address;
      sheets.set(address, picture.decode().then(() => picture));
    }
    return sheets.get(address);
  };
  const view = () => views[Number(choice.value)];
  const layer = () => radios.find((radio) => radio.checked)?.value ?? "none";

  const paint = (canvas, now, index, image, overlay) => {
    canvas.width = now.width * scale;
    canvas.height = now.height * scale;
    const context = canvas.getContext("2d");
    const x = (index % now.columns) * now.width;
    const y = Math.floor(index / now.columns) * now.height;
    const place = [x, y, now.width, now.height, 0, 0, canvas.width, canvas.height];
    context.imageSmoothingQuality = "high";
    context.drawImage(image, ...place);
    if (overlay && layer() === "error") {  // errors are thin: a darkened image lets them be seen
      context.fillStyle = "rgb(0 0 0 / .5)";
      context.fillRect(0, 0, canvas.width, canvas.height);
    }
    if (overlay) {
      context.globalAlpha = Number(opacity.value) / 100;
      context.imageSmoothingEnabled = false;
      context.drawImage(overlay, ...place);
    }
  };
  const draw = async () => {
    const turn = ++drawn;
    const now = view();
    const index = Number(slider.value);
    const name = layer();
    const [image, overlay] = await Promise.all([load(now.image), now[name] ? load(now[name]) : null]);
    if (turn !== drawn) { return; }  // the reader has moved on while a picture was decoded
    paint(get("plain"), now, index, image, null);
    paint(get("overlaid"), now, index, image, overlay);
    document.querySelectorAll("#slice-by-slice [data-legend]").forEach((part) => {
      part.hidden = name === "none" || (part.dataset.legend === "error") !== (name === "error");
    });
    const share = now.profile[index];
    get("position").textContent = `${index + 1} / ${now.count}: ${now.captions[index]}`;
    get("share").textContent = share === null ? "" : `${(share * 100).toFixed(1)} % of the object pixels are wrong`;
    slider.setAttribute("aria-valuetext", now.captions[index]);
    [...profile.children].forEach((bar, number) => bar.classList.toggle("now", number === index));
    get("viewer").dataset.drawn = `${choice.value}/${index}/${name}`;
  };
  const drawProfile = (now) => {
    const highest = Math.max(0.01, ...now.profile.map((share) => share ?? 0));
    profile.setAttribute("viewBox", `0 0 ${now.count} 1`);
    profile.toggleAttribute("hidden", now.count < 2 || now.profile.every((share) => share === null));
    profile.replaceChildren(...now.profile.map((share, number) => {
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const height = Math.max(0.04, (share ?? 0) / highest);
      for (const [key, value] of Object.entries({ x: number + 0.1, width: 0.8, y: 1 - height, height })) {
        bar.setAttribute(key, value);
      }
      return bar;
    }));
  };
  const open = () => {
    const now = view();
    slider.max = now.count - 1;
    slider.value = Math.floor((now.count - 1) / 2);
    radios.forEach((radio) => { radio.disabled = radio.value !== "none" && !now[radio.value]; });
    if (radios.find((radio) => radio.checked)?.disabled !== false) {
      radios.filter((radio) => !radio.disabled).at(-1).checked = true;
    }
    const edges = document.querySelectorAll("#stage .edge");
    edges.forEach((edge, number) => { edge.textContent = now.edges[number] ?? ""; });
    drawProfile(now);
    draw();
  };
  const move = (steps) => { slider.value = Number(slider.value) + steps; draw(); };

  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) { return; }
    const last = Number(slider.max);
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -last, End: last };
    const letter = { t: "truth", p: "prediction", e: "error", n: "none" }[event.key.toLowerCase()];
    const radio = radios.find((candidate) => candidate.value === letter && !candidate.disabled);
    if (event.key in steps) { move(steps[event.key]); } else if (radio) { radio.checked = true; draw(); } else { return; }
    event.preventDefault();
  });
  profile.addEventListener("pointerdown", (event) => {
    const box = profile.getBoundingClientRect();
    slider.value = Math.floor(((event.clientX - box.left) / box.width) * view().count);
    draw();
  });
  slider.addEventListener("input", draw);
  opacity.addEventListener("input", draw);
  choice.addEventListener("change", open);
  radios.forEach((radio) => radio.addEventListener("change", draw));
  open();
})();
