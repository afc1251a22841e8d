// A page's or program's side of Socket.IO: prints every event as a JSON line, does what it is told.
// node trace.cjs MODULES URL TOKEN watch|send NAME [polling]
const path = require("node:path");
const [modules, url, token, role, name, transport] = process.argv.slice(2);
const { io } = require(path.join(modules, "socket.io-client"));

const socket = io(`${url}/trace`, transport ? { transports: [transport], reconnection: false } : { reconnection: false });
const say = (event, body) => process.stdout.write(`${JSON.stringify({ event, body })}\n`);
const ask = (event, body) => socket.timeout(15000).emitWithAck(event, body);

socket.onAny((event, body) => {
  if (body?.data?.data instanceof Buffer) body.data.data = body.data.data.toString("base64");
  say(event, body);
});
socket.on("connect_error", (error) => {
  say("connect_error", { message: error.message });
  process.exit(1);
});
socket.on("disconnect", (reason) => {
  say("disconnect", { reason });
  process.exit(0);
});
socket.on("connect", async () => {
  try {
    if (role === "watch") await watch();
    else await send();
  } catch (error) {
    say("failed", { message: String(error) });
    process.exit(1);
  }
});

async function watch() {
  say("answer", await ask("attach", { name }));
  say("answer", await ask("authenticate", { token }));
  say("answer", await ask("attach", { name }));
  socket.on("eof", async () => {
    say("answer", await ask("detach", { name }));
    socket.disconnect();
  });
}

async function send() {
  say("answer", await ask("authenticate", { token, name, id: "page-1", title: "from a page" }));
  say("answer", await ask("data", { type: "STDOUT", data: "héllo\n" }));
  say("answer", await ask("data", { from: "me", data: { type: "STDERR", data: Buffer.from([0, 255]) } }));
  say("answer", await ask("data", { type: "SIDEWAYS", data: "x" }));
  say("answer", await ask("eof", { code: 4, message: "as it should" }));
  socket.emit("bye");
}
