// A live session with the gateway: audio goes up as binary frames, what was said comes down as JSON.

const PATH = "/waves/v1/pulse/get_text";
const SCHEMES = { "http:": "ws:", "https:": "wss:", "ws:": "ws:", "wss:": "wss:" };
// Some ten seconds at 48 kHz: a network that is so far behind won't catch up with speech.
const LONGEST_BACKLOG_BYTES = 1_000_000;
const LAST_TRANSCRIPT_MS = 30_000;

export class SessionError extends Error {}

/** The WebSocket's URL at a gateway's address. Throws a SessionError for what is no address. */
export function sessionUrl(gateway, language, sampleRate) {
  let url;
  try {
    url = new URL(gateway);
  } catch {
    throw new SessionError(`“${gateway}” is no address; write one like http://127.0.0.1:8080.`);
  }
  const scheme = SCHEMES[url.protocol];
  if (scheme === undefined) throw new SessionError("The gateway's address begins with http:// or https://.");
  const host = url.hostname.replace(/^\[|\]$/g, "");
  const local = host === "localhost" || host.endsWith(".localhost") || host === "::1" || host.startsWith("127.");
  if (scheme === "ws:" && globalThis.location?.protocol === "https:" && !local) {
    throw new SessionError("A page that came by HTTPS reaches the gateway by https:// only.");
  }
  url.protocol = scheme;
  url.pathname = url.pathname.replace(/\/+$/, "") + PATH;
  url.hash = "";
  url.search = new URLSearchParams({
    language,
    encoding: "linear16",
    sample_rate: String(sampleRate),
    vad_events: "true",
  });
  return url;
}

export class Session {
  #socket;
  #last = false;
  #said = null;
  #closed;

  /** Resolves when the gateway has accepted; `hear` gets each message. Rejects with a SessionError. */
  static async open({ gateway, key, language, sampleRate }, hear) {
    const url = sessionUrl(gateway, language, sampleRate);
    const session = new Session(url, key, hear);
    await session.#opened();
    return session;
  }

  constructor(url, key, hear) {
    try {
      // A browser sends no Authorization header with a WebSocket; the key travels as a subprotocol, not in the URL,
      // because URLs end up in logs.
      this.#socket = new WebSocket(url, ["token", key]);
    } catch {
      throw new SessionError("The key has characters that no key has; copy it again.");
    }
    this.#socket.binaryType = "arraybuffer";
    this.#socket.addEventListener("message", ({ data }) => this.#take(data, hear));
    this.#closed = new Promise((resolve) => {
      this.#socket.addEventListener("close", (event) => resolve(this.#sentence(event)));
    });
  }

  /** Resolves, when the session is over, with null or with a sentence that says what went wrong. */
  get closed() {
    return this.#closed;
  }

  /** Send samples: an ArrayBuffer of 16-bit little-endian mono PCM. */
  send(samples) {
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    if (this.#socket.bufferedAmount > LONGEST_BACKLOG_BYTES) {
      this.#said = "The network is too slow for this audio; what is above was heard.";
      this.#socket.close();
      return;
    }
    this.#socket.send(samples);
  }

  /** Ask for the last transcript; `closed` resolves after it. */
  finish() {
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    this.#socket.send(JSON.stringify({ type: "close_stream" }));
    const timer = setTimeout(() => {
      this.#said ??= "The last transcript did not come; what is above is all that was heard.";
      this.#socket.close();
    }, LAST_TRANSCRIPT_MS);
    this.#closed.then(() => clearTimeout(timer));
  }

  async #opened() {
    const opened = new Promise((resolve) => this.#socket.addEventListener("open", () => resolve(null)));
    const fault = await Promise.race([opened, this.#closed]);
    if (fault !== null) throw new SessionError(await this.#refusal());
  }

  #take(data, hear) {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    if (message.type === "error") this.#said = message.message;
    if (message.is_last) {
      this.#last = true;
      this.#socket.close(1000);
    }
    hear(message);
  }

  #sentence({ code, reason }) {
    if (this.#last) return null;
    if (this.#said) return this.#said;
    if (reason) return `The gateway ended the session: ${reason}`;
    return `The connection to the gateway was lost (code ${code}).`;
  }

  // A browser hides why a handshake was refused, so that a page can't explore a network with it.
  async #refusal() {
    const url = new URL(this.#socket.url);
    const health = new URL("/health", url);
    health.protocol = url.protocol === "wss:" ? "https:" : "http:";
    try {
      await fetch(health, { mode: "no-cors", cache: "no-store", signal: AbortSignal.timeout(3_000) });
    } catch {
      return `Nothing answers at ${health.origin}; check the address, and that the gateway is up.`;
    }
    return "The gateway refused the session: check the key, and that the language is one of this gateway's.";
  }
}
