// Questions to the console's own server.

const LONGEST_MS = 20000;

/** JSON of an answer; throws an Error whose message is the server's detail. */
async function answer(promise) {
  let response;
  try {
    response = await promise;
  } catch {
    throw new Error("the console's server does not answer; is `ground console` still running?");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    const detail = typeof body.detail === "string" ? body.detail : `it answers ${response.status}`;
    throw new Error(detail);
  }
  return body;
}

export function get(path, query = {}) {
  const asked = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  const url = asked.size ? `${path}?${asked}` : path;
  const early = window.consoleEarly.get(url);
  window.consoleEarly.delete(url);
  return answer(early || fetch(url, { signal: AbortSignal.timeout(LONGEST_MS), headers: { Accept: "application/json" } }));
}

/** Work that never runs twice at once: a call meanwhile waits for the run that goes on, and by default for one more. */
export function single(work) {
  let running = null, again = false;
  const run = async () => {
    do {
      again = false;
      await work();
    } while (again);
  };
  return (anew = true) => {
    if (running) again ||= anew;
    else running = run().finally(() => { running = null; });
    return running;
  };
}

export function post(path, body = {}) {
  return answer(fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }));
}
