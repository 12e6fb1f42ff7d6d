"""What serving costs: the same requests through the program's own engine benchmark and through `fathom serve` as streams, in turns.

    python3 tools/bench_serving.py PROGRAM MODEL [--streams 64] [--tokens 400] [--pairs 5] [--threads N] [--speculate 0] [--eager]

script/bench-serving calls it. Both get the same prompts (the server's own template says which token ids), the same number of tokens,
batch, cache, threads and drafts, greedily, so that the engine's work is the same to the token.

The clients run on the processors that are measured. So they only wait until the system has a whole reply for them (SO_RCVLOWAT) and
read it then; --eager reads every piece as it comes, as a user's client does. What they used of the processors is in the table, and so
is what the server's threads used that are not the engine's, which no client can blur.
"""

import argparse
import json
import os
import re
import resource
import selectors
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request

from load_clients import body_of

TICK = os.sysconf("SC_CLK_TCK")
PAGE = 64  # tokens of a page of the cache


def question(i):
    return f"Hello {i}"


class Server:
    def __init__(self, options, cache_tokens):
        threads = ["--threads", str(options.threads)] if options.threads else []
        self.process = subprocess.Popen(
            [options.program, "serve", "--model", options.model, "--no-auth", "--port", "0", "--max-sequences", str(options.streams),
             "--cache-tokens", str(cache_tokens), "--speculate", str(options.speculate), *threads],
            stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.match(r"listening on (\S+)", line):
                self.url = found[1]
                break
        else:
            raise SystemExit("the server did not start")
        host, port = self.url.split("//")[1].rsplit(":", 1)
        self.where = host, int(port)

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request))

    def processor_seconds(self):
        """(threads of sockets and JSON, all threads)"""
        serving = total = 0
        folder = f"/proc/{self.process.pid}/task"
        for task in os.listdir(folder):
            text = open(f"{folder}/{task}/stat").read()
            name, fields = text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2:].split()
            used = (int(fields[11]) + int(fields[12])) / TICK
            total += used
            serving += used if name in ("http", "worker") else 0
        return serving, total

    def end(self):
        self.process.terminate()
        self.process.wait()


def run_streams(where, options):
    """Seconds from the first request's sending to the end of the last reply."""
    waiting = selectors.DefaultSelector()
    sockets, replies = [], {}
    for i in range(options.streams):
        connection = socket.create_connection(where)
        if not options.eager:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2 << 20)  # or the end, which comes first
        body = body_of(options.tokens, question(i), temperature=0)
        sockets.append((connection, b"POST /chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                        % len(body) + body))
        replies[connection] = []
        waiting.register(connection, selectors.EVENT_READ)
    begin = time.monotonic()
    for connection, request in sockets:
        connection.sendall(request)
    left = options.streams
    while left:
        for key, _ in waiting.select():
            data = key.fileobj.recv(8 << 20)
            if data:
                replies[key.fileobj].append(data)
            else:
                left -= 1
                end = time.monotonic()
                waiting.unregister(key.fileobj)
    for connection, parts in replies.items():
        reply = b"".join(parts)
        assert b"data: [DONE]" in reply and b'"completion_tokens":%d,' % options.tokens in reply, "a stream was lost"
        connection.close()
    return end - begin


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    for name, default in (("streams", 64), ("tokens", 400), ("pairs", 5), ("threads", 0), ("speculate", 0)):  # what the benchmark knows: 0, or 2 at most
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--eager", action="store_true")
    options = parser.parse_args()
    probe = Server(options, 16384)
    prompts = [probe.post("/apply-template", {"messages": [{"role": "user", "content": question(i)}]})["tokens"]
               for i in range(options.streams)]
    probe.end()
    cache_tokens = (max(map(len, prompts)) + options.tokens + PAGE) * options.streams
    server = Server(options, cache_tokens)
    run_streams(server.where, options)  # warms up, as the benchmark does
    engine_speeds, stream_speeds, shares, per_token, client_shares = [], [], [], [], []
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(prompts, file)
        file.flush()
        command = [options.program, "bench", "--model", options.model, "--tokens", file.name, "--requests", str(options.streams),
                   "--gen-tokens", str(options.tokens), "--parallel", str(options.streams), "--json"]
        command += ["--threads", str(options.threads)] if options.threads else []
        command += ["--speculate", "on"] if options.speculate else []
        for _ in range(options.pairs):
            engine_speeds.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)["output_tokens_per_second"])
            before, client_before = server.processor_seconds(), resource.getrusage(resource.RUSAGE_SELF)
            seconds = run_streams(server.where, options)
            after, client_after = server.processor_seconds(), resource.getrusage(resource.RUSAGE_SELF)
            stream_speeds.append(options.streams * options.tokens / seconds)
            serving, total = after[0] - before[0], after[1] - before[1]
            client = sum(getattr(client_after, k) - getattr(client_before, k) for k in ("ru_utime", "ru_stime"))
            shares.append(100 * serving / total)
            per_token.append(1e6 * serving / (options.streams * options.tokens))
            client_shares.append(100 * client / total)
    server.end()

    def row(name, values, digits):
        return f"| {name} | {statistics.median(values):.{digits}f} | {min(values):.{digits}f} to {max(values):.{digits}f} |"

    ratios = [s / e for s, e in zip(stream_speeds, engine_speeds)]
    print(f"{options.streams} streams of {options.tokens} tokens behind prompts of {min(map(len, prompts))} to {max(map(len, prompts))}, "
          f"{options.pairs} pairs in turns, clients {'read every piece' if options.eager else 'read whole replies'}\n")
    print("| | median | spread |\n| --- | ---: | --- |")
    print(row("engine benchmark, tokens/s", engine_speeds, 0))
    print(row("streams, tokens/s", stream_speeds, 0))
    print(row("streams over engine, by pair", ratios, 3))
    print(f"| ratio of the medians | {statistics.median(stream_speeds) / statistics.median(engine_speeds):.3f} | |")
    print(row("processor time of sockets and JSON, % of the server's", shares, 1))
    print(row("the same, us a token", per_token, 2))
    print(row("the clients' processor time, % of the server's", client_shares, 1))


if __name__ == "__main__":
    main()
