// Browsers start no worker from file://. There this class runs the script of the search in a hidden frame, so that the
// plugin `offline` of mkdocs-material need not load its own shim from another site.
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = `<script>
        postMessage = data => frameElement.worker.dispatchEvent(new MessageEvent("message", { data }));
        </script><script src="${url}"></script>`;
      this.frame.worker = this;
      this.ready = new Promise(resolve => this.frame.addEventListener("load", resolve));
      (document.body ?? document.documentElement).append(this.frame);
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
