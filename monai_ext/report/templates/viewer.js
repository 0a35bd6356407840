/* The slice viewer: draws one tile of the sheets of slices, and lays the chosen overlay over it. */
(() => {
  const block = document.getElementById("viewer-data");
  if (!block) { return; }
  const views = JSON.parse(block.textContent);
  const get = (id) => document.getElementById(id);
  const [slider, choice, opacity, stage, profile] = ["slice", "view", "opacity", "stage", "profile"].map(get);
  const radios = [...document.querySelectorAll('input[name="layer"]')];
  const marks = get("marks");  // this and what follows is there only where prompts were recorded
  const [toggle, said, strip] = ["show-prompt", "used-prompt", "prompted"].map(get);
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
  const shape = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    return made;
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
  const drawMarks = (now, prompt) => {  // twice each: a dark line, and a bright one that it makes visible on anything
    const arm = Math.max(now.width, now.height) / 40;
    const twice = (name, bright, attributes) => ["edge-line", bright].map((kind) => shape(name, { ...attributes, class: kind }));
    const [x, y, width, height] = prompt?.box ?? [];
    const box = prompt?.box ? twice("rect", "dash", { x, y, width, height }) : [];
    const points = (prompt?.points ?? []).flatMap(([column, row, inside]) => twice("path", "stroke", {
      d: `M${column - arm} ${row}h${2 * arm}${inside ? `M${column} ${row - arm}v${2 * arm}` : ""}`,
    }));
    marks.setAttribute("viewBox", `0 0 ${now.width} ${now.height}`);
    marks.replaceChildren(...box, ...points);
    marks.toggleAttribute("hidden", !toggle.checked);
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
      const kind = part.dataset.legend;
      part.hidden = kind === "prompt" ? !now.prompts || !toggle.checked : name === "none" || (kind === "error") !== (name === "error");
    });
    const prompt = now.prompts?.[index];
    if (marks) {
      drawMarks(now, prompt);
      said.textContent = prompt?.text ?? "";
      [...strip.children].forEach((bar, number) => bar.classList.toggle("now", number === index));
    }
    const share = now.profile[index];
    get("position").textContent = `${index + 1} / ${now.count}: ${now.captions[index]}`;
    get("share").textContent = share === null ? "" : `${(share * 100).toFixed(1)} % of the object pixels are wrong`;
    const spoken = [now.captions[index], prompt?.text].filter(Boolean).join(", ");
    slider.setAttribute("aria-valuetext", spoken);
    get("overlaid").setAttribute("aria-label", `image ${name === "none" ? "without overlay" : `with ${name}`}: ${spoken}`);
    [...profile.children].forEach((bar, number) => bar.classList.toggle("now", number === index));
    get("viewer").dataset.drawn = `${choice.value}/${index}/${name}`;
  };
  const drawProfile = (now) => {
    const highest = Math.max(0.01, ...now.profile.map((share) => share ?? 0));
    profile.setAttribute("viewBox", `0 0 ${now.count} 1`);
    profile.toggleAttribute("hidden", now.count < 2 || now.profile.every((share) => share === null));
    profile.replaceChildren(...now.profile.map((share, number) => {
      const height = Math.max(0.04, (share ?? 0) / highest);
      return shape("rect", { x: number + 0.1, width: 0.8, y: 1 - height, height });
    }));
    if (!strip) { return; }
    toggle.disabled = !now.prompts;
    strip.setAttribute("viewBox", `0 0 ${now.count} 1`);
    strip.toggleAttribute("hidden", !now.prompts || now.count < 2);
    const given = (prompt) => Boolean(prompt && (prompt.box || prompt.points.length));
    strip.replaceChildren(...(now.prompts ?? []).map((prompt, number) => (
      shape("rect", { x: number, width: 1, y: 0, height: given(prompt) ? 1 : 0 })
    )));
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
    if (event.key.toLowerCase() === "b" && toggle && !toggle.disabled) { toggle.checked = !toggle.checked; draw(); event.preventDefault(); return; }
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
  toggle?.addEventListener("change", draw);
  choice.addEventListener("change", open);
  radios.forEach((radio) => radio.addEventListener("change", draw));
  open();
})();
