// Before the page's modules are here: asks for what the first view will draw, so that both come at the same time.
(function () {
  const first = {
    map: ["api/outlines", "api/maps?located=true&offset=0&limit=50"],
    curves: ["api/curves?last=604800"],
  }[location.hash.slice(1) || "map"] || [];
  window.consoleEarly = new Map([...first, "api/live?since=0"].map((path) => {
    const answer = fetch(path, { headers: { Accept: "application/json" } });
    answer.catch(() => {}); // said where the answer is used
    return [path, answer];
  }));
})();
