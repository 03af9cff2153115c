// Search on pages opened from a disk: browsers start no worker there, so that an iframe does its work.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      this.onmessage = null;
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.inside = frame.contentWindow;
      this.inside.answer = (data) => {
        const event = new MessageEvent("message", { data: data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      const page = this.inside.document;
      page.open();
      page.write(
        "<script>window.postMessage = (data) => window.answer(data);" +
          "window.importScripts = (...names) => names.reduce((before, name) => before.then(() => new Promise((done) => {" +
          "const script = document.createElement('script'); script.src = name; script.onload = done;" +
          "document.body.appendChild(script); })), Promise.resolve());</" + "script>" +
          "<body></body>"
      );
      page.close();
      const script = page.createElement("script");
      script.src = new URL(address, location.href);
      this.ready = new Promise((done) => script.addEventListener("load", done));
      page.body.appendChild(script);
    }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data: data })));
    }
    terminate() {}
  };
}
