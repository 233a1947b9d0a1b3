#!/usr/bin/env node
// Transcribe speech while it is spoken: a WAV file, or raw samples on standard input, at the pace of time.
//
//   npm ci
//   BABELRACK_KEY_FILE=key.txt node live.mjs --language en speech.wav
//   arecord -q -f S16_LE -r 16000 -t raw | node live.mjs --language en -
//
// What is final goes to standard output, a line an utterance; what may still change goes to standard error.
// Ctrl-C ends the speech, and the last words still come; a second one ends the program.

import { createReadStream } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import WebSocket from "ws";

const USAGE = `usage: live.mjs --language CODE [--gateway URL] [--key-file FILE] [--sample-rate HZ] FILE.wav | -

The key is read from --key-file, or the file that BABELRACK_KEY_FILE names, or BABELRACK_KEY.`;
const PATH = "/waves/v1/pulse/get_text";
const RATES = [8_000, 16_000, 22_050, 24_000, 44_100, 48_000];
const SCHEMES = { "http:": "ws:", "https:": "wss:", "ws:": "ws:", "wss:": "wss:" };
const FRAME_MS = 100;
const LAST_TRANSCRIPT_MS = 30_000;
// Ten seconds of the widest samples: what a slow network holds up waits where it comes from, not in memory.
const LONGEST_BACKLOG_BYTES = 1_000_000;

class Trouble extends Error {}

/** Samples as a stream of Buffers, and their rate: of a WAV file, or of standard input. */
async function speechOf(source, rate) {
  if (source === "-") return { stream: process.stdin, rate };
  try {
    const wav = await header(source);
    const { channels, bits, start, end } = wav;
    if (channels !== 1 || bits !== 16 || wav.coding !== 1 || !RATES.includes(wav.rate)) {
      throw new Trouble(
        `${source} has ${channels} channels of ${bits} bits at ${wav.rate} Hz; ` +
          `make it mono, 16 bits, at one of ${RATES.join(", ")} Hz.`,
      );
    }
    return { stream: createReadStream(source, { start, end }), rate: wav.rate };
  } catch (error) {
    if (error instanceof Trouble) throw error;
    throw new Trouble(`${source} can't be read: ${error.message}`);
  }
}

/** A WAV file's format, and where its samples begin and end. */
async function header(path) {
  const file = await open(path);
  const head = Buffer.alloc(64 * 1024);
  let length;
  try {
    ({ bytesRead: length } = await file.read(head, 0, head.length, 0));
  } finally {
    await file.close();
  }
  if (head.toString("latin1", 0, 4) !== "RIFF" || head.toString("latin1", 8, 12) !== "WAVE") {
    throw new Trouble(`${path} is no WAV file.`);
  }
  let format = null;
  for (let at = 12; at + 8 <= length; ) {
    const [name, size, start] = [head.toString("latin1", at, at + 4), head.readUInt32LE(at + 4), at + 8];
    if (name === "fmt ") {
      format = {
        coding: head.readUInt16LE(start),
        channels: head.readUInt16LE(start + 2),
        rate: head.readUInt32LE(start + 4),
        bits: head.readUInt16LE(start + 14),
      };
    }
    if (name === "data" && format) return { ...format, start, end: start + size - 1 };
    at = start + size + (size % 2);
  }
  throw new Trouble(`${path} is a WAV file without samples.`);
}

/** A tenth of a second at a time, no faster than it is spoken. */
async function* frames(speech) {
  const { stream, rate } = speech;
  const size = (rate * FRAME_MS * 2) / 1000;
  let held = Buffer.alloc(0);
  let due = performance.now();
  for await (const chunk of stream) {
    held = Buffer.concat([held, chunk]);
    while (held.length >= size) {
      if (speech.over) return;
      yield held.subarray(0, size);
      held = held.subarray(size);
      // A source that is late, such as a microphone, isn't caught up with by sending faster later.
      due = Math.max(due + FRAME_MS, performance.now() - FRAME_MS);
      await sleep(Math.max(0, due - performance.now()));
    }
  }
  if (held.length > 0) yield held;
}

const inPlace = process.stderr.isTTY;

/** An utterance that may still change: on a terminal its end, as far as that fits into a line. */
function showPartial(text) {
  if (inPlace) process.stderr.write(`\r\x1b[K${text.slice(-(process.stderr.columns - 1))}`);
  else if (text) process.stderr.write(`${text}\n`);
}

function showFinal(text) {
  if (inPlace) showPartial("");
  if (text) process.stdout.write(`${text}\n`);
}

function sessionUrl(gateway, language, rate) {
  let url;
  try {
    url = new URL(gateway);
  } catch {
    url = null;
  }
  if (!SCHEMES[url?.protocol]) throw new Trouble(`${gateway} is no gateway's address; write one like http://127.0.0.1:8080.`);
  url.protocol = SCHEMES[url.protocol];
  url.pathname = url.pathname.replace(/\/+$/, "") + PATH;
  url.search = new URLSearchParams({ language, encoding: "linear16", sample_rate: rate });
  return url;
}

/** What a refusal says, in its JSON or as it is. */
async function refusal(response) {
  let body = "";
  for await (const part of response.setEncoding("utf8")) body += part;
  try {
    const answer = JSON.parse(body);
    return answer.message ?? answer.error;
  } catch {
    return body || `status ${response.statusCode}`;
  }
}

/** Send the whole speech, then ask for the last transcript. */
async function send(socket, speech) {
  for await (const frame of frames(speech)) {
    if (socket.readyState !== WebSocket.OPEN) return;
    socket.send(frame);
    while (socket.bufferedAmount > LONGEST_BACKLOG_BYTES) await sleep(FRAME_MS);
  }
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "close_stream" }));
}

/** One session, from its handshake to its last transcript. */
function transcribe(url, key, speech) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, { headers: { Authorization: `Bearer ${key}` } });
    let silence;
    socket.on("open", () => {
      send(socket, speech).then(() => {
        silence = setTimeout(() => fail("the gateway is silent."), LAST_TRANSCRIPT_MS);
      }, reject);
    });
    socket.on("message", (data) => {
      const message = JSON.parse(data.toString());
      if (message.type === "error") fail(message.message);
      if (message.type !== "transcription") return;
      if (message.is_final) showFinal(message.transcript);
      else showPartial(message.transcript);
      if (message.is_last) {
        socket.close(1000);
        resolve();
      }
    });
    socket.on("unexpected-response", async (_request, response) => fail(`the gateway refuses: ${await refusal(response)}`));
    socket.on("error", (error) => fail(`no session with ${url.host}: ${error.message || error.code}`));
    socket.on("close", (_code, reason) => {
      clearTimeout(silence);
      fail(`the session was ended: ${reason.toString() || "the connection is lost"}`);
    });

    function fail(sentence) {
      reject(new Trouble(sentence));
      socket.terminate();
    }
  });
}

/** The key; it is no argument, because everybody on a machine can read those. */
async function readKey(file) {
  let key = process.env.BABELRACK_KEY ?? "";
  if (file) {
    key = await readFile(file, "utf8").catch((error) => {
      throw new Trouble(`${file} can't be read: ${error.message}`);
    });
  }
  if (!key.trim()) {
    throw new Trouble("there is no key; name its file with --key-file or BABELRACK_KEY_FILE, or set BABELRACK_KEY.");
  }
  return key.trim();
}

function commandLine() {
  let asked;
  try {
    asked = parseArgs({
      allowPositionals: true,
      options: {
        language: { type: "string" },
        gateway: { type: "string", default: "http://127.0.0.1:8080" },
        "key-file": { type: "string", default: process.env.BABELRACK_KEY_FILE },
        "sample-rate": { type: "string", default: "16000" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    throw new Trouble(`${error.message}\n${USAGE}`);
  }
  const { values, positionals } = asked;
  if (values.help) return null;
  const rate = Number(values["sample-rate"]);
  if (positionals.length !== 1 || !values.language || !RATES.includes(rate)) throw new Trouble(`what to do?\n${USAGE}`);
  return { ...values, rate, source: positionals[0] };
}

try {
  const asked = commandLine();
  if (asked === null) {
    console.log(USAGE);
    process.exit(0);
  }
  const key = await readKey(asked["key-file"]);
  const speech = await speechOf(asked.source, asked.rate);
  process.once("SIGINT", () => {
    speech.over = true;
  });
  await transcribe(sessionUrl(asked.gateway, asked.language, speech.rate), key, speech);
  process.exit(0); // standard input may still be open
} catch (error) {
  if (!(error instanceof Trouble)) throw error;
  console.error(`live.mjs: ${error.message}`);
  process.exit(1);
}
