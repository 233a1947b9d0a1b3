// The page: a form, a button that starts and stops, and what was said.

import { Microphone, MicrophoneError } from "./microphone.js";
import { Session, SessionError } from "./session.js";
import { Transcript } from "./transcript.js";

const STATES = {
  idle: { button: "Start", says: "Press Start and speak." },
  starting: { button: "Start", says: "Connecting…" },
  listening: { button: "Stop", says: "Listening…" },
  hearing: { button: "Stop", says: "Hearing speech…" },
  stopping: { button: "Stop", says: "Waiting for the last words…" },
  ended: { button: "Start", says: "The session is over." },
};

const at = (id) => document.getElementById(id);
const form = at("session");
const transcript = new Transcript(at("finals"), at("current"));
let stop = null;

function show(state) {
  document.body.dataset.state = state;
  at("status").textContent = STATES[state].says;
  at("toggle").textContent = STATES[state].button;
  at("toggle").disabled = state === "starting" || state === "stopping";
  for (const field of form.elements) {
    if (field.tagName === "INPUT") field.readOnly = !["idle", "ended"].includes(state);
  }
}

function level(peak) {
  // From 60 dB below the loudest to the loudest.
  at("level").value = Math.max(0, 1 + Math.log10(Math.max(peak, 1e-3)) / 3);
}

function complain(sentence) {
  at("fault").textContent = sentence ?? "";
  at("fault").hidden = !sentence;
}

function hear(message) {
  if (message.type === "speech_started") show("hearing");
  if (message.type === "speech_ended" && stop) show("listening");
  if (message.type === "error") complain(message.message);
  if (message.type !== "transcription") return;
  const { scrollHeight, scrollTop, clientHeight } = document.documentElement;
  const atEnd = scrollHeight - scrollTop - clientHeight < 100;
  if (message.is_final) transcript.final(message.transcript, message.language);
  else transcript.partial(message.transcript);
  at("copy").hidden = transcript.text === "";
  at("empty").hidden = true;
  // Whoever has scrolled up to read is left there.
  if (atEnd) at("transcript").scrollIntoView({ block: "end" });
}

async function run() {
  complain(null);
  transcript.clear();
  at("copy").hidden = true;
  at("empty").hidden = false;
  show("starting");
  let microphone;
  try {
    microphone = await Microphone.open();
    const session = await Session.open(
      {
        gateway: at("gateway").value.trim(),
        key: at("key").value.trim(),
        language: at("language").value.trim(),
        sampleRate: microphone.sampleRate,
      },
      hear,
    );
    const stopped = new Promise((resolve) => {
      stop = resolve;
    });
    microphone.start((samples, peak) => {
      session.send(samples);
      level(peak);
    }, stop);
    show("listening");
    await Promise.race([stopped, session.closed]);
    stop = null;
    show("stopping");
    await microphone.close();
    session.finish();
    complain(await session.closed);
    show("ended");
  } catch (error) {
    if (!(error instanceof MicrophoneError || error instanceof SessionError)) console.error(error);
    complain(error.message);
    show("idle");
  } finally {
    stop = null;
    level(0);
    await microphone?.close();
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (stop) stop();
  else if (!at("toggle").disabled) run();
});

at("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(transcript.text);
  at("copy").textContent = "Copied";
  setTimeout(() => {
    at("copy").textContent = "Copy";
  }, 2_000);
});

show("idle");
