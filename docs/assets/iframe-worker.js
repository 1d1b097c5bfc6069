// Search in a site opened from disk, where browsers have no workers: a hidden frame stands in for one.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      this.ready = new Promise(done => { frame.onload = () => done(frame.contentWindow) })
      document.body.append(frame)
      const page = frame.contentDocument
      page.open()
      frame.contentWindow.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      frame.contentWindow.importScripts = (...scripts) => scripts.reduce((before, src) => before.then(() =>
        new Promise(done => page.body.append(Object.assign(page.createElement("script"), { src, onload: done })))
      ), Promise.resolve())
      page.write(`<body><script src="${url}"></` + "script>")
      page.close()
    }

    postMessage(data) {
      this.ready.then(frame => frame.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}
