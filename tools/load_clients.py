"""Many clients at once against a running `fathom serve`, with nothing but Python's standard library.

    python3 tools/load_clients.py URL streams COUNT TOKENS [PAUSE]  COUNT streams at once; every one must end whole. With a
                                                               pause (seconds) each is read only now and then, so that the
                                                               clients take little of the processors
    python3 tools/load_clients.py URL first-byte COUNT         one after the other: time to the first byte of a stream, and
                                                               that of the very first apart
    python3 tools/load_clients.py URL load RATE SECONDS TOKENS FIRST_MS TOKEN_MS
                                                               streams that arrive by chance, RATE a second: waiting times of
                                                               those served, and goodput: how many a second kept both targets
    python3 tools/load_clients.py URL soak MINUTES CLIENTS PID clients come and go; watches memory, descriptors, threads

FATHOM_API_KEY, if set, is the key of all of them. Exits 1 when a stream was lost or broken, or when a soak's server grew.
"""

import asyncio
import json
import os
import random
import sys
import time
import urllib.parse


def body_of(tokens, prompt="Hello", **more):
    return json.dumps({"model": "deepseek-chat", "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens,
                       "ignore_eos": True, "stream": True, **more}).encode()


class Stream:
    """One streamed reply: how it went."""

    def __init__(self):
        self.status, self.first, self.last, self.done, self.tokens, self.left = 0, None, None, False, 0, False

    async def run(self, host, port, body, leave_after=None, pause=0):
        begin = time.monotonic()
        reader, writer = await asyncio.open_connection(host, port)
        try:
            key = os.environ.get("FATHOM_API_KEY")
            more = f"Authorization: Bearer {key}\r\n".encode() if key else b""
            writer.write(b"POST /chat/completions HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n"
                         % (host.encode(), more, len(body)) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            self.status = int(head[9:12])
            tail = b""
            while True:
                data = await reader.read(65536)
                if not data:
                    break
                self.last = time.monotonic() - begin
                if self.first is None:
                    self.first = self.last
                tail = tail[-1000:] + data
                if pause:
                    await asyncio.sleep(pause)
                if leave_after is not None and time.monotonic() - begin > leave_after:
                    self.left = True
                    break
            self.done = b"data: [DONE]" in tail and tail.endswith(b"0\r\n\r\n")
            at = tail.rfind(b'"completion_tokens":')
            if at >= 0:
                self.tokens = int(tail[at + 20:tail.index(b",", at)])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
        return self


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


async def streams(host, port, count, tokens, pause=0):
    begin = time.monotonic()
    runs = await asyncio.gather(*(Stream().run(host, port, body_of(tokens, f"Hello {i}", temperature=0), pause=pause)
                                  for i in range(count)))
    seconds = time.monotonic() - begin
    whole = sum(run.done and run.status == 200 and run.tokens == tokens for run in runs)
    firsts = [run.first for run in runs if run.first is not None]
    paces = [(run.last - run.first) / (run.tokens - 1) for run in runs if run.tokens > 1]
    print(f"{count} streams of {tokens} tokens: {whole} whole, {seconds:.2f} s, {whole * tokens / seconds:.0f} tokens/s, "
          f"first byte {1e3 * percentile(firsts, 0.5):.0f} ms median, {1e3 * percentile(firsts, 0.99):.0f} ms p99, "
          f"{1e3 * max(firsts):.0f} ms last; a token {1e3 * percentile(paces or [0], 0.5):.1f} ms median, "
          f"{1e3 * percentile(paces or [0], 0.99):.1f} ms p99")
    return whole == count


async def first_byte(host, port, count):
    times = []
    for i in range(count):
        run = await Stream().run(host, port, body_of(2, f"Hello {i}"))
        if not run.done:
            return False
        times.append(1e3 * run.first)
    print(f"first byte at idle, {count} requests: {percentile(times, 0.5):.1f} ms p50, {percentile(times, 0.99):.1f} ms p99, "
          f"{max(times):.1f} ms worst; the first of all {times[0]:.1f} ms")
    return True


async def load(host, port, rate, seconds, tokens, first_ms, token_ms):
    """Arrivals do not wait for earlier replies: a server that cannot keep up must say so."""
    draw = random.Random(1)
    runs, waiting, begin, at = [], [], time.monotonic(), 0.0
    while (at := at + draw.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0, begin + at - time.monotonic()))
        runs.append(Stream())
        waiting.append(asyncio.create_task(runs[-1].run(host, port, body_of(tokens, f"Hello {len(runs)}", temperature=0))))
    await asyncio.gather(*waiting)
    seconds = time.monotonic() - begin
    served = [run for run in runs if run.status == 200 and run.done]
    refused = sum(run.status in (429, 503) for run in runs)
    firsts = [1e3 * run.first for run in served]
    paces = [1e3 * (run.last - run.first) / max(1, run.tokens - 1) for run in served]
    good = sum(first <= first_ms and pace <= token_ms for first, pace in zip(firsts, paces))
    print(f"{len(runs)} arrivals, {rate:g} a second, {tokens} tokens each: {len(served)} served, {refused} told to come back, "
          f"{len(runs) - len(served) - refused} lost")
    for name, values in (("first token", firsts), ("time per output token", paces)):
        print(f"  {name}: {percentile(values or [0], 0.5):.1f} ms p50, {percentile(values or [0], 0.99):.1f} ms p99")
    print(f"  goodput (first token within {first_ms:g} ms, {token_ms:g} ms a token): {good / seconds:.2f} requests/s, "
          f"{100 * good / max(1, len(served)):.1f} % of those served; {sum(run.tokens for run in served) / seconds:.0f} tokens/s in all")
    return len(served) + refused == len(runs)


def figures(pid):
    status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    return {"rss_mb": int(status["VmRSS"].split()[0]) / 1024, "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": int(status["Threads"])}


async def soak(host, port, minutes, clients, pid):
    end = time.monotonic() + 60 * minutes
    ended, left, refused, lost = 0, 0, 0, 0
    rows = []

    async def client(seed):
        nonlocal ended, left, refused, lost
        draw = random.Random(seed)
        while time.monotonic() < end:
            tokens = draw.choice([1, 10, 60, 300])
            leave = draw.random() * 0.5 if draw.random() < 0.2 else None
            words = " ".join(draw.choice(["a", "cat", "sat", "on", "the", "mat"]) for _ in range(draw.choice([1, 20, 120])))
            run = await Stream().run(host, port, body_of(tokens, words), leave)
            if run.left:
                left += 1
            elif run.status in (429, 503):
                refused += 1
            elif run.done and run.tokens == tokens:
                ended += 1
            else:
                lost += 1
            await asyncio.sleep(draw.random() * 0.3)

    async def watch():
        while time.monotonic() < end:
            rows.append((time.monotonic(), figures(pid)))
            if len(rows) % 2 == 1:
                show(*rows[-1])
            await asyncio.sleep(min(30, 60 * minutes / 40))

    def show(at, row):
        print(f"  {(at - rows[0][0]) / 60:5.1f} min: {row['rss_mb']:.1f} MB, {row['descriptors']} descriptors, "
              f"{row['threads']} threads, {ended} ended", flush=True)

    before = figures(pid)
    await asyncio.gather(watch(), *(client(i) for i in range(clients)))
    await asyncio.sleep(2)
    after = figures(pid)
    show(time.monotonic(), after)
    # The first quarter fills what is bounded (pages of the cache, buffers, the database's page cache); from there on memory is flat.
    quarter = len(rows) // 4
    early, late = ([row["rss_mb"] for _, row in part] for part in (rows[quarter:2 * quarter], rows[-quarter:]))
    growth = sum(late) / len(late) - sum(early) / len(early)
    threads = {row["threads"] for _, row in rows}
    print(f"soak of {minutes} min, {clients} clients: {ended} ended whole, {left} left, {refused} told to come back, {lost} lost; "
          f"memory of the last quarter less that of the second {growth:+.2f} MB; {before['descriptors']} descriptors before, "
          f"{after['descriptors']} after; threads {sorted(threads)}")
    flat = growth < 0.02 * sum(early) / len(early) and after["descriptors"] <= before["descriptors"] + 1 and len(threads) == 1
    if not flat:
        print("the server grew")
    return lost == 0 and flat


def main():
    where = urllib.parse.urlsplit(sys.argv[1])
    kind, numbers = sys.argv[2], [float(text) if "." in text else int(text) for text in sys.argv[3:]]
    work = {"streams": streams, "first-byte": first_byte, "load": load, "soak": soak}[kind]
    sys.exit(0 if asyncio.run(work(where.hostname, where.port, *numbers)) else 1)


if __name__ == "__main__":
    main()
