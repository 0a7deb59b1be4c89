// What a page does: loads its parts, asks, uploads, opens a WebSocket. What came of it is in `found`;
// the title says when it is done, or what went wrong.
"use strict";

const found = {};

function images(count) {
  const loaded = [];
  for (let number = 0; number < count; number += 1) {
    const image = new Image();
    image.src = `/dot.svg?${number}`;
    document.body.append(image);
    loaded.push(image.decode());
  }
  return Promise.all(loaded);
}

function echo(words) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${location.host}/socket`);
    const heard = [];
    socket.onopen = () => socket.send(words[0]);
    socket.onmessage = (event) => {
      heard.push(event.data);
      if (heard.length < words.length) socket.send(words[heard.length]);
      else socket.close(1000);
    };
    socket.onerror = () => reject(new Error("the WebSocket fails"));
    socket.onclose = (event) => resolve({ heard, clean: event.wasClean, code: event.code });
  });
}

async function look() {
  await images(24);
  found.images = [...document.images].filter((image) => image.naturalWidth === 8).length;
  found.color = getComputedStyle(document.getElementById("text")).color;
  // Two cookies, which HTTP/2 may send as two fields.
  document.cookie = "a=1; secure";
  document.cookie = "b=2; secure";
  found.head = await (await fetch("/api/head")).text();
  const body = new Uint8Array(1 << 20).fill(7);
  const answer = await fetch("/api/count", { method: "POST", body });
  found.counted = [answer.status, await answer.text()];
  found.socket = await echo(["one", "x".repeat(70000), "\u20ac"]);
  found.socket.heard = found.socket.heard.map((text) => text.slice(0, 3) + text.length);
  const [page] = performance.getEntriesByType("navigation");
  found.page = page.nextHopProtocol;
  found.parts = performance.getEntriesByType("resource").map((part) => part.nextHopProtocol);
}

look().then(
  () => { document.title = "done"; },
  (error) => { document.title = `failed: ${error}`; },
);
