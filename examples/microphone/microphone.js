// The microphone as 16-bit mono samples, at the rate that the browser's audio runs at.

const RATES = [8_000, 16_000, 22_050, 24_000, 44_100, 48_000];
const FLUSH_MS = 500;
const FAULTS = {
  NotAllowedError: "The microphone may not be used; allow it for this page in the browser's address bar.",
  NotFoundError: "There is no microphone; connect one and start again.",
  NotReadableError: "The microphone can't be read; another program may hold it.",
};

export class MicrophoneError extends Error {}

export class Microphone {
  #context;
  #stream;
  #source;
  #samples;

  /** Ask for the microphone. Throws a MicrophoneError whose message is for the person who speaks. */
  static async open() {
    if (!navigator.mediaDevices) {
      throw new MicrophoneError("Browsers give the microphone to pages from https:// and localhost only.");
    }
    const microphone = new Microphone();
    try {
      // What makes a call pleasant takes sounds away that a recogniser hears by; only the loudness is evened out.
      const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
      microphone.#stream = await navigator.mediaDevices.getUserMedia({ audio });
      microphone.#context = new AudioContext();
      if (!RATES.includes(microphone.#context.sampleRate)) {
        await microphone.#context.close();
        microphone.#context = new AudioContext({ sampleRate: 48_000 });
      }
      await microphone.#context.audioWorklet.addModule(new URL("samples.worklet.js", import.meta.url));
      await microphone.#context.resume();
    } catch (error) {
      await microphone.close();
      throw new MicrophoneError(FAULTS[error.name] ?? `The microphone can't be used: ${error.message}`);
    }
    return microphone;
  }

  get sampleRate() {
    return this.#context.sampleRate;
  }

  /** From now on `take(samples, peak)` gets ArrayBuffers of about 100 ms, and how loud each is, from 0 to 1. */
  start(take, ended) {
    this.#samples = new AudioWorkletNode(this.#context, "samples", {
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: "explicit",
    });
    this.#samples.port.onmessage = ({ data }) => data.samples && take(data.samples, data.peak);
    this.#source = this.#context.createMediaStreamSource(this.#stream);
    this.#source.connect(this.#samples);
    this.#stream.getAudioTracks()[0].addEventListener("ended", ended);
  }

  /** Hand on what is left, and let go of the microphone. */
  async close() {
    if (this.#samples) {
      const port = this.#samples.port;
      const { onmessage } = port;
      await new Promise((resolve) => {
        port.onmessage = (event) => (event.data.flushed ? resolve() : onmessage(event));
        port.postMessage("flush");
        setTimeout(resolve, FLUSH_MS); // audio that the browser has suspended doesn't answer
      });
      this.#source.disconnect();
      this.#samples = null;
    }
    this.#stream?.getTracks().forEach((track) => track.stop());
    if (this.#context && this.#context.state !== "closed") await this.#context.close();
  }
}
