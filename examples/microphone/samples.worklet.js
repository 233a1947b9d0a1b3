// Runs in the browser's audio thread: float samples in blocks of 128, out as 16-bit integers in chunks of 100 ms.

class Samples extends AudioWorkletProcessor {
  #chunk = new Int16Array(Math.round(sampleRate / 10));
  #filled = 0;
  #peak = 0;
  #flushed = false;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.#hand();
      this.#flushed = true;
      this.port.postMessage({ flushed: true });
    };
  }

  process([[block]]) {
    for (const sample of block ?? []) {
      const bounded = Math.max(-1, Math.min(1, sample));
      this.#peak = Math.max(this.#peak, Math.abs(bounded));
      this.#chunk[this.#filled] = Math.round(bounded * 32767);
      this.#filled += 1;
      if (this.#filled === this.#chunk.length) this.#hand();
    }
    return !this.#flushed;
  }

  #hand() {
    if (this.#filled === 0) return;
    const samples = this.#chunk.slice(0, this.#filled).buffer;
    this.port.postMessage({ samples, peak: this.#peak }, [samples]);
    this.#filled = 0;
    this.#peak = 0;
  }
}

registerProcessor("samples", Samples);
