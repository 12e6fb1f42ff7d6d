"""Many clients at once against a running `fathom serve`, with nothing but Python's standard library.

    python3 tools/load_clients.py URL streams COUNT TOKENS [PAUSE]  COUNT streams at once; every one must end whole. With a
                                                               pause (seconds) each is read only now and then, so that the
                                                               clients take little of the processors
    python3 tools/load_clients.py URL first-byte COUNT         one after the other: time to the first byte of a stream
    python3 tools/load_clients.py URL soak MINUTES CLIENTS PID clients come and go; watches memory, descriptors, threads

FATHOM_API_KEY, if set, is the key of all of them. Exits 1 when a stream was lost or broken.
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
    print(f"first byte at idle, {count} requests: {percentile(times, 0.5):.1f} ms median, {percentile(times, 0.99):.1f} ms of "
          f"a hundred the slowest, {max(times):.1f} ms worst")
    return True


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
            await asyncio.sleep(min(30, 60 * minutes / 10))

    await asyncio.gather(watch(), *(client(i) for i in range(clients)))
    await asyncio.sleep(2)
    after = figures(pid)
    print(f"soak of {minutes} min, {clients} clients: {ended} ended whole, {left} left, {refused} told to come back, {lost} lost")
    step = max(1, len(rows) // 10)
    for at, row in rows[::step] + [(time.monotonic(), after)]:
        print(f"  {(at - rows[0][0]) / 60:5.1f} min: {row['rss_mb']:.1f} MB, {row['descriptors']} descriptors, {row['threads']} threads")
    return lost == 0


def main():
    where = urllib.parse.urlsplit(sys.argv[1])
    kind, numbers = sys.argv[2], [float(text) if "." in text else int(text) for text in sys.argv[3:]]
    work = {"streams": streams, "first-byte": first_byte, "soak": soak}[kind]
    sys.exit(0 if asyncio.run(work(where.hostname, where.port, *numbers)) else 1)


main()
