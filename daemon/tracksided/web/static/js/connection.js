// Server-sent events, and what to do when they end.

const NAMES = ["overview", "history", "rows", "run"];
const RETRY_MS = 3000; // after an answer that the browser does not try again by itself

export class Connection {
  /**
   * @param onEvent called with the name and the data of each event.
   * @param onState called with "live", "lost", or "refused" where an answer says no.
   */
  constructor(onEvent, onState) {
    this.onEvent = onEvent;
    this.onState = onState;
    this.source = null;
    this.timer = null;
    this.watched = null;
    this.last = ""; // id of the newest event: the server goes on from there
    // A browser has six connections for one server: pages that nobody sees shall hold none.
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    addEventListener("pagehide", () => this.close());
  }

  /** Watch these runs from now on. */
  watch(keys) {
    const wanted = [...keys].sort().join(",");
    if (wanted === this.watched) return;
    this.watched = wanted;
    this.open();
  }

  open() {
    this.close();
    if (document.hidden) return; // a page that was opened in the background, too
    const source = new EventSource(`/events?runs=${this.watched}&after=${this.last}`);
    this.source = source;
    for (const name of NAMES) {
      source.addEventListener(name, (event) => {
        if (source !== this.source) return;
        this.last = event.lastEventId;
        this.onState("live");
        this.onEvent(name, JSON.parse(event.data));
      });
    }
    source.addEventListener("error", () => {
      if (source !== this.source) return;
      const isRefused = source.readyState === EventSource.CLOSED;
      this.onState(isRefused ? "refused" : "lost");
      if (isRefused) this.timer = setTimeout(() => this.open(), RETRY_MS);
    });
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }
}
