// The page works without this. With it, answers outlast a reload and a server that is away, and a second click sends nothing.
"use strict";
const form = document.getElementById("answers");
const away = document.getElementById("unreachable");

document.getElementById("problems")?.focus();

for (const each of document.querySelectorAll("form")) {
  each.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = each.querySelector("button");
    if (button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true");
    try {
      await fetch("/healthz", { cache: "no-store" });
    } catch {
      away.hidden = false;
      button.removeAttribute("aria-disabled");
      return;
    }
    each.submit();
  });
}

// A page that the browser brings back from its memory must not keep a button that was pressed.
window.addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("button")) button.removeAttribute("aria-disabled");
});

if (form) {
  const key = "answers " + form.dataset.turn;
  const radios = [...form.querySelectorAll("input[type=radio]")];
  const number = new Set(radios.map((radio) => radio.name)).size;
  const show = () => {
    const answered = radios.filter((radio) => radio.checked).length;
    document.getElementById("answered").textContent = answered + " of " + number + " answered";
  };
  for (const old of Object.keys(sessionStorage)) if (old !== key) sessionStorage.removeItem(old);
  const kept = JSON.parse(sessionStorage.getItem(key) || "{}");
  for (const radio of radios) if (kept[radio.name] === radio.value) radio.checked = true;
  form.addEventListener("change", () => {
    const checked = radios.filter((radio) => radio.checked).map((radio) => [radio.name, radio.value]);
    sessionStorage.setItem(key, JSON.stringify(Object.fromEntries(checked)));
    show();
  });
  show();
}
