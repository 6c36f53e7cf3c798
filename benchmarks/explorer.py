"""python -m benchmarks.explorer: how long the explorer's page waits for an answer.

Starts the explorer as a user does, and asks it over HTTP, one question after the other: the median and the 95th
percentile of each. Then many clients ask at once. Every answer to an equal question must be equal.
"""

import argparse
import concurrent.futures
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.request

_CLIENTS = 20


def ask(address, name, **arguments):
    """Milliseconds, and the answer's bytes."""
    request = urllib.request.Request(
        f"{address}api/{name}", json.dumps(arguments).encode(), {"Content-Type": "application/json"}
    )
    start = time.perf_counter()
    with urllib.request.urlopen(request) as answer:
        body = answer.read()
    return 1e3 * (time.perf_counter() - start), body


def questions(address):
    """Of one image, as the page asks them."""
    sampled = json.loads(ask(address, "sample", num=1, seed=0)[1])
    image, latents = sampled["probs"][0], sampled["latents"]
    image = [[round(pixel) for pixel in row] for row in image]  # of a model of 0 and 1
    num = len(latents[0])
    keep, adjacency = [False] * (num - 1) + [True], [[True] * num] * num
    return {
        "sample": {"num": 1, "seed": 0},
        "decode": {"latents": latents},
        "resample": {"latents": latents, "keep": keep, "adjacency": adjacency, "seed": 0},
        "encode": {"images": [image]},
        "bounds": {"image": image, "seed": 0},
    }


def measured(address, name, arguments, num):
    """One client, then many at once."""

    def once(_):
        return ask(address, name, **arguments)

    _, expected = once(0)
    times = [once(i)[0] for i in range(num)]
    with concurrent.futures.ThreadPoolExecutor(_CLIENTS) as pool:
        answers = list(pool.map(once, range(num)))
    if any(body != expected for _, body in answers):
        raise SystemExit(f"{name}: two answers to one question differ")
    together = statistics.median(ms for ms, _ in answers)
    return f"{statistics.median(times):>11.1f} {statistics.quantiles(times, n=20)[-1]:>9.1f} {together:>27.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saved_model", default="saved_models/mnist_ldiaf")
    parser.add_argument("--times", type=int, default=100, help="questions of each kind")
    args = parser.parse_args()
    command = [sys.executable, "-m", "tf_ldiaf.explore", f"--saved_model={args.saved_model}", "--nobrowser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"http://\S+", server.stdout.readline()).group()
            asked = questions(address)
            print(f"{'question':>10} {'median, ms':>11} {'95 %, ms':>9} {f'{_CLIENTS} at once, median, ms':>27}")
            for name, arguments in asked.items():
                print(f"{name:>10} {measured(address, name, arguments, args.times)}")
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
