// Before the first paint: dark or light by the user's choice, else by the system's.
(function () {
  const wants = window.matchMedia("(prefers-color-scheme: dark)");
  window.consoleTheme = {
    get choice() { return localStorage.getItem("theme") || "auto"; },
    set choice(value) { localStorage.setItem("theme", value); this.apply(); },
    apply() {
      const choice = this.choice;
      document.documentElement.dataset.theme = choice === "auto" ? (wants.matches ? "dark" : "light") : choice;
      document.dispatchEvent(new Event("theme"));
    },
  };
  wants.addEventListener("change", () => window.consoleTheme.apply());
  window.consoleTheme.apply();
})();
