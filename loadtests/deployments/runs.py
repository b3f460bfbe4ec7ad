"""The scripts of k6 against what runs, and what their summaries say."""

import json
import os
import resource
import subprocess

from processes import ROOT, Failed

SCRIPTS = ["publish", "fetch", "subscribe", "mixed", "spike", "soak"]
# Which latencies of a script are told: what it is called, and k6's name for it.
CALL = "grpc_req_duration{{call:{}}}"
LATENCIES = {
    "publish": {"publish": CALL.format("publish")},
    "fetch": {"fetch": CALL.format("fetch")},
    "subscribe": {"publish to delivery": "delivery_latency"},
    "mixed": {"publish": CALL.format("publish"), "fetch": CALL.format("fetch"), "publish to delivery": "delivery_latency"},
    "spike": {f"publish {phase}": f"grpc_req_duration{{phase:{tag}}}" for phase, tag in (("before", "before"), ("within", "spike"), ("after", "after"))},
    "soak": {
        "publish, first quarter": "grpc_req_duration{call:publish,quarter:1}",
        "publish, last quarter": "grpc_req_duration{call:publish,quarter:4}",
        "publish to delivery": "delivery_latency",
    },
}
PERCENTILES = ["med", "p(95)", "p(99)"]
# Gentle: k6, brokers, Envoy and database share two processors. Enough virtual users for a fifth of a second of the spike.
FULL = {"RATE": 200, "SPIKE": 5, "RAMP": "2s", "DURATION": "13s", "MESSAGES": 500, "USERS": 10, "ROUND": 50, "MAX_USERS": 200, "MAX_P99_MS": 250}
# What is looked at is that it works, not how fast this machine is.
QUICK = {**FULL, "RATE": 50, "RAMP": "500ms", "DURATION": "1500ms", "MESSAGES": 20, "USERS": 2, "ROUND": 5, "MAX_P99_MS": 20_000}
# Longer than a run may take with all that k6 waits for at its end.
K6_SECONDS = 120
# k6's code for a threshold that did not hold.
THRESHOLD = 99


def run(script, address, out, settings):
    """k6's exit code, with NAME.json and NAME.html in `out`, and what it printed in NAME.log."""
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}, "SERVER": address, "OUT": str(out)}
    out.mkdir(parents=True, exist_ok=True)
    with open(out / f"{script}.log", "w") as log:
        command = [ROOT / "loadtests/k6/run", script]
        return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, timeout=K6_SECONDS).returncode


def all_of(deployment, out, settings, scripts, say):
    """The figures of each script, and k6's code for a bound that nothing can keep."""
    figures = {}
    for script in scripts:
        before, k6_before = deployment.processor_seconds(), k6_seconds()
        code = run(script, deployment.address, out, settings)
        after = {"k6": k6_seconds() - k6_before}
        after |= {who: seconds - before[who] for who, seconds in deployment.processor_seconds().items()}
        figures[script] = figures_of(script, out, settings) | {"code": code, "processor_seconds": {who: round(seconds, 2) for who, seconds in after.items()}}
        say(script, figures[script])
    control = run(scripts[0], deployment.address, out / "control", {**settings, "DURATION": "1s", "RAMP": "100ms", "MAX_P99_MS": 0})
    return figures, control


def figures_of(script, out, settings):
    """What the summary of a run says; raises Failed if it has not what it should have."""
    try:
        metrics = json.loads((out / f"{script}.json").read_text())["metrics"]
        latencies = {name: [metrics[key][which] for which in PERCENTILES] for name, key in LATENCIES[script].items()}
    except (OSError, KeyError) as error:
        words = (out / f"{script}.log").read_text().splitlines()[-5:]
        raise Failed(f"k6 {script} left no summary with {error}:\n" + "\n".join(words)) from error
    count = lambda name: metrics.get(name, {}).get("count", 0)  # noqa: E731
    # The iterations of subscribers are rounds and no calls: deliveries are what they do.
    rounds = count("deliveries") // settings["ROUND"]
    return {
        "latencies_ms": latencies,
        "calls": 0 if script == "subscribe" else count("iterations") - rounds,
        "deliveries": count("deliveries"),
        "dropped": count("dropped_iterations"),
        "refused": count("refused"),
        "seconds": seconds_of(script, settings),
    }


def crossed(out, script):
    """The thresholds that did not hold, with the checks that failed."""
    summary = json.loads((out / f"{script}.json").read_text())
    # In a summary the booleans of thresholds say whether they were crossed.
    found = [f"{metric} {bound}" for metric, values in summary["metrics"].items() for bound, bad in values.get("thresholds", {}).items() if bad]
    failed = [f"'{check['name']}' failed {check['fails']} times" for check in summary["root_group"]["checks"].values() if check["fails"]]
    return ", ".join(found + failed)


def seconds_of(script, settings):
    """How long calls arrive: without what is published before, and without the end."""
    plain = lambda text: float(text.removesuffix("ms")) / 1000 if text.endswith("ms") else float(text.removesuffix("s"))  # noqa: E731
    # A spike and a soak have no ramp.
    return plain(settings["DURATION"]) + (0 if script in ("spike", "soak") else plain(settings["RAMP"]))


def k6_seconds():
    """Processor time of all children that have ended: while a script runs, k6 only."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
