// Lets the page open without its server: conversations kept in the browser stay readable. The network always comes first
// for the page itself, so a new version of the server shows at once; files under /assets/ carry a hash and never change.
// Nothing of the API is ever kept here.
const kCache = 'fathom-page';
const kAssets = ["/assets/ConsoleView-Clmp7qS_.js","/assets/ConsoleView-CqdgAgCG.css","/assets/KaTeX_AMS-Regular-BQhdFMY1.woff2","/assets/KaTeX_Caligraphic-Bold-Dq_IR9rO.woff2","/assets/KaTeX_Caligraphic-Regular-Di6jR-x-.woff2","/assets/KaTeX_Fraktur-Bold-CL6g_b3V.woff2","/assets/KaTeX_Fraktur-Regular-CTYiF6lA.woff2","/assets/KaTeX_Main-Bold-Cx986IdX.woff2","/assets/KaTeX_Main-BoldItalic-DxDJ3AOS.woff2","/assets/KaTeX_Main-Italic-NWA7e6Wa.woff2","/assets/KaTeX_Main-Regular-B22Nviop.woff2","/assets/KaTeX_Math-BoldItalic-CZnvNsCZ.woff2","/assets/KaTeX_Math-Italic-t53AETM-.woff2","/assets/KaTeX_SansSerif-Bold-D1sUS0GD.woff2","/assets/KaTeX_SansSerif-Italic-C3H0VqGB.woff2","/assets/KaTeX_SansSerif-Regular-DDBCnlJ7.woff2","/assets/KaTeX_Script-Regular-D3wIWfF6.woff2","/assets/KaTeX_Size1-Regular-mCD8mA8B.woff2","/assets/KaTeX_Size2-Regular-Dy4dx90m.woff2","/assets/KaTeX_Size3-Regular-gV2CO0n9.woff2","/assets/KaTeX_Size4-Regular-Dl5lxZxV.woff2","/assets/KaTeX_Typewriter-Regular-CO6r4hn1.woff2","/assets/StatusView-Db3hhmoi.js","/assets/StatusView-TNQ7Q5UF.css","/assets/index-Ce4CwxJT.css","/assets/index-CxhLjSFv.js","/assets/katex-BYLiqMcl.js","/assets/katex-DF6jnMcS.css"]; // filled in by the build: every file under /assets/ of this version

self.addEventListener('install', (event) => {
  // What the first screen needs; other files are kept when they are first used.
  const first = kAssets.filter((path) => path.startsWith('/assets/index-'));
  event.waitUntil(caches.open(kCache).then((cache) => cache.addAll(['/', ...first])).then(() => self.skipWaiting()));
});
self.addEventListener('activate', (event) => event.waitUntil(dropOld().then(() => self.clients.claim())));

async function dropOld() {
  const cache = await caches.open(kCache);
  for (const request of await cache.keys()) {
    const path = new URL(request.url).pathname;
    if (path.startsWith('/assets/') && !kAssets.includes(path)) await cache.delete(request);
  }
}

async function fromNetworkFirst(request, key) {
  const cache = await caches.open(kCache);
  try {
    const reply = await fetch(request);
    if (reply.ok) await cache.put(key, reply.clone());
    return reply;
  } catch (error) {
    const kept = await cache.match(key);
    if (kept) return kept;
    throw error;
  }
}

async function fromCacheFirst(request) {
  const cache = await caches.open(kCache);
  const kept = await cache.match(request);
  return kept ?? fromNetworkFirst(request, request);
}

self.addEventListener('fetch', (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== 'GET' || url.origin !== self.location.origin) return;
  if (event.request.mode === 'navigate') {
    event.respondWith(fromNetworkFirst(event.request, '/'));
  } else if (url.pathname.startsWith('/assets/')) {
    event.respondWith(fromCacheFirst(event.request));
  } else if (/^\/(favicon\.svg|manifest\.webmanifest)$/.test(url.pathname)) {
    event.respondWith(fromNetworkFirst(event.request, url.pathname));
  }
});
