"use strict";
// The pictures stand in the contact sheet, so that the page shows them without script and in print;
// a viewer takes them from there and lays two of them under a divider.
(() => {
  const clamp = (value) => Math.min(100, Math.max(0, value));

  function readSheet(sheet) {
    return [...sheet.querySelectorAll(".pair")].map((pair) => ({
      id: pair.querySelector("b").textContent,
      label: pair.querySelector("figcaption").textContent.trim(),
      pictures: [...pair.querySelectorAll(".shot")].map((shot) => ({
        image: shot.querySelector("img"),
        kind: shot.dataset.kind,
        name: shot.querySelector("span").textContent,
      })),
    }));
  }

  function start(viewer) {
    const find = (selector) => viewer.querySelector(selector);
    const sheet = viewer.nextElementSibling;
    const pairs = readSheet(sheet);
    const [frame, stage, range] = [find(".frame"), find(".stage"), find("input[type=range]")];
    const state = { pair: 0, left: 0, right: 0, at: 50, zoom: 1, x: 50, y: 50 };

    function show(side) {
      const picture = pairs[state.pair].pictures[state[side]];
      const image = find(`[data-pane=${side}] img`);
      const tag = find(`[data-pane=${side}] .tag`);
      image.src = picture.image.src;
      image.alt = picture.image.alt;
      tag.textContent = picture.name;
      tag.dataset.kind = picture.kind;
      for (const input of viewer.querySelectorAll(`input[data-side=${side}]`)) {
        const named = pairs[state.pair].pictures[Number(input.value)];
        input.nextElementSibling.textContent = named.name;
        input.nextElementSibling.title = named.name;
      }
    }

    function draw() {
      show("left");
      show("right");
      const { image } = pairs[state.pair].pictures[state.left];
      stage.style.setProperty("--ratio", image.width / image.height);
      find(".counter").replaceChildren(`${state.pair + 1} / ${pairs.length} `, soft(pairs[state.pair].label));
      find(".strip").querySelectorAll("button").forEach((button, index) => {
        button.toggleAttribute("aria-current", index === state.pair);
      });
      for (const button of viewer.querySelectorAll("[data-step]")) button.disabled = pairs.length < 2;
      place();
    }

    function place() {
      const [left, right] = ["left", "right"].map((side) => pairs[state.pair].pictures[state[side]].name);
      range.value = state.at;
      range.setAttribute("aria-valuetext", `${Math.round(state.at)} % ${left}, the rest ${right}`);
      stage.style.setProperty("--at", `${state.at}%`);
      stage.style.setProperty("--zoom", state.zoom);
      stage.style.setProperty("--x", `${state.x}%`);
      stage.style.setProperty("--y", `${state.y}%`);
      stage.classList.toggle("zoomed", state.zoom > 1);
      find("[data-zoom]").textContent = `${state.zoom}×`;
    }

    function go(index) {
      state.pair = (index + pairs.length) % pairs.length;
      draw();
      reveal(find(".strip").children[state.pair]);
    }

    for (const side of ["left", "right"]) {
      state[side] = Number(find(`input[data-side=${side}]:checked`).value);
      for (const input of viewer.querySelectorAll(`input[data-side=${side}]`)) {
        input.addEventListener("change", () => { state[side] = Number(input.value); draw(); });
      }
    }
    for (const button of viewer.querySelectorAll("[data-step]")) {
      button.addEventListener("click", () => go(state.pair + Number(button.dataset.step)));
    }
    range.addEventListener("input", () => { state.at = Number(range.value); place(); });
    range.addEventListener("keydown", (event) => panByKey(event, state, place));
    find("[data-zoom]").addEventListener("click", () => { state.zoom = { 1: 2, 2: 4, 4: 1 }[state.zoom]; place(); });
    dragging(stage, range, state, place);
    foldSheet(find("[data-all]"), sheet);
    fullScreen(find("[data-full]"), viewer);
    find(".strip").append(...pairs.map((pair, index) => thumbnail(pair, () => go(index))));
    const ratios = pairs.map((pair) => pair.pictures[0].image.width / pair.pictures[0].image.height);
    const heights = pairs.map((pair) => pair.pictures[0].image.height);
    frame.style.setProperty("--frame", Math.min(...ratios));
    frame.style.setProperty("--tall", `${Math.max(240, 2.2 * Math.max(...heights))}px`);
    viewer.hidden = false;
    draw();
    for (const input of viewer.querySelectorAll("input:checked")) reveal(input.parentElement);
  }

  // Unlike scrollIntoView, this leaves the page where it is.
  function reveal(child) {
    const row = child.parentElement;
    const shift = child.getBoundingClientRect().left - row.getBoundingClientRect().left;
    row.scrollLeft += shift - (row.clientWidth - child.clientWidth) / 2;
  }

  function soft(text) {
    const span = document.createElement("span");
    span.textContent = text;
    return span;
  }

  function thumbnail(pair, onClick) {
    const button = document.createElement("button");
    const image = document.createElement("img");
    image.src = pair.pictures[pair.pictures.length - 1].image.src;
    image.alt = "";
    button.type = "button";
    button.title = pair.label;
    button.setAttribute("aria-label", `Show pair ${pair.label}`);
    button.append(image);
    button.addEventListener("click", onClick);
    return button;
  }

  // At 1x a drag moves the divider; magnified, it moves the divider if it begins there, else the picture.
  function dragging(stage, range, state, place) {
    let drag = null;
    const follow = (event) => {
      const box = stage.getBoundingClientRect();
      if (drag.pan) {
        const speed = 100 / (state.zoom - 1);
        state.x = clamp(drag.pan.x - ((event.clientX - drag.x) / box.width) * speed);
        state.y = clamp(drag.pan.y - ((event.clientY - drag.y) / box.height) * speed);
      } else {
        state.at = clamp(((event.clientX - box.left) / box.width) * 100);
      }
      place();
    };
    stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      const box = stage.getBoundingClientRect();
      const away = Math.abs(event.clientX - box.left - (state.at / 100) * box.width);
      const pan = state.zoom > 1 && away > 28 ? { x: state.x, y: state.y } : null;
      drag = { pan, x: event.clientX, y: event.clientY };
      stage.setPointerCapture(event.pointerId);
      range.focus({ preventScroll: true, focusVisible: false });
      event.preventDefault();
      if (event.pointerType === "mouse") follow(event); // a finger may be about to scroll the page
    });
    stage.addEventListener("pointermove", (event) => { if (drag) follow(event); });
    stage.addEventListener("pointerup", (event) => { if (drag) follow(event); drag = null; });
    stage.addEventListener("pointercancel", () => { drag = null; });
  }

  function panByKey(event, state, place) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!event.shiftKey || !steps) return;
    event.preventDefault();
    state.x = clamp(state.x + 10 * steps[0]);
    state.y = clamp(state.y + 10 * steps[1]);
    place();
  }

  function foldSheet(button, sheet) {
    const fold = (folded) => {
      sheet.classList.toggle("folded", folded);
      button.setAttribute("aria-expanded", String(!folded));
    };
    button.addEventListener("click", () => fold(!sheet.classList.contains("folded")));
    fold(true);
  }

  function fullScreen(button, viewer) {
    button.hidden = !document.fullscreenEnabled;
    button.addEventListener("click", () => {
      if (document.fullscreenElement) document.exitFullscreen();
      else viewer.requestFullscreen().catch(() => { button.hidden = true; });
    });
    document.addEventListener("fullscreenchange", () => {
      button.textContent = document.fullscreenElement === viewer ? "Leave full screen" : "Full screen";
    });
  }

  // One dialog enlarges every picture; its neighbours are those of the same album or pair.
  function enlarging(dialog) {
    const image = dialog.querySelector("img");
    const magnify = dialog.querySelector("[data-magnify]");
    const state = { buttons: [], at: 0 };

    function show(index) {
      state.at = (index + state.buttons.length) % state.buttons.length;
      const source = state.buttons[state.at].querySelector("img");
      image.src = source.src;
      image.alt = source.alt;
      dialog.querySelector("figcaption").textContent = source.alt;
      enlarge(false);
    }

    function enlarge(wanted) {
      dialog.classList.toggle("magnified", wanted);
      magnify.setAttribute("aria-pressed", String(wanted));
    }

    for (const button of document.querySelectorAll(".enlarge")) {
      button.disabled = false;
      button.addEventListener("click", () => {
        state.buttons = [...button.closest(".shots").querySelectorAll(".enlarge")];
        for (const move of dialog.querySelectorAll("[data-move]")) move.disabled = state.buttons.length < 2;
        show(state.buttons.indexOf(button));
        dialog.showModal();
      });
    }
    for (const move of dialog.querySelectorAll("[data-move]")) {
      move.addEventListener("click", () => show(state.at + Number(move.dataset.move)));
    }
    for (const target of [image, magnify]) {
      target.addEventListener("click", () => enlarge(!dialog.classList.contains("magnified")));
    }
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && !dialog.classList.contains("magnified")) show(state.at + step);
    });
  }

  // Where columns scroll, ten plots below a table are a long way to the next one.
  if (window.matchMedia("(max-width: 40rem)").matches) {
    for (const plot of document.querySelectorAll(".plot")) plot.open = false;
  }
  document.querySelectorAll("[data-gallery]").forEach(start);
  enlarging(document.getElementById("enlarged"));
})();
