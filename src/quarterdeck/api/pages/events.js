// The events of a stream across broken connections. The token travels in a header, never in a URL.

const RETRY_MS = [500, 1000, 2000, 4000];

// Calls `show(event)` for each event and `state(word, problem?)` at each change of the connection:
// connecting, live, away, denied. Ends when `signal` is aborted or the server says no.
export async function follow(url, token, { show, state, signal }) {
  let last = null;
  let tries = 0;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream" };
      if (token) headers.Authorization = `Bearer ${token}`;
      if (last !== null) headers["Last-Event-ID"] = last;
      const answer = await fetch(url, { headers, signal, cache: "no-store", referrerPolicy: "no-referrer" });
      if (!answer.ok) {
        const problem = await answer.json().catch(() => ({ detail: `The server answered ${answer.status}.` }));
        if (answer.status >= 400 && answer.status < 500 && answer.status !== 408 && answer.status !== 429) {
          state("denied", problem);
          return;
        }
        throw new Error(problem.detail);
      }
      state("live");
      for await (const event of parsed(answer.body)) {
        tries = 0;
        if (event.id !== null) last = event.id;
        if (event.data.type === "error" && event.data.status < 500) {
          state("denied", event.data);
          return;
        }
        show(event.data);
      }
    } catch (error) {
      if (signal.aborted) return;
    }
    state("away");
    await pause(RETRY_MS[Math.min(tries, RETRY_MS.length - 1)], signal);
    tries += 1;
  }
}

async function* parsed(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let id = null;
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (data.length) yield { id, data: JSON.parse(data.join("\n")) };
        id = null;
        data = [];
      } else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      else if (line.startsWith("id:")) id = line.slice(3).trimStart();
    }
  }
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
