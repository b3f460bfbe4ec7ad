"""The figures of all deployments: tables between the marks of a Markdown page, and an index of k6's own pages."""

import html
import json
import os
import subprocess
from datetime import datetime, timezone

from runs import FULL, SCRIPTS
from servers import DEPLOYMENTS

BEGIN, END = "<!-- figures: written by `make loadtest-all` -->", "<!-- end of figures -->"
STORES = {"embedded": "embedded store", "postgres": "Postgres", "cassandra": "Cassandra"}
WHAT = {
    "publish": "Durable publishes",
    "fetch": "Fetches of what was published before",
    "subscribe": "Subscribers that publish to themselves, one message after the other",
    "mixed": "Publishes, fetches and subscribers",
    "spike": "Publishes that become five times as many within a second, and fewer again",
    "soak": "The gentle mix; here for seconds, so it shows that it runs and not what hours do",
}


def called(name):
    count, store = DEPLOYMENTS[name]
    return f"{'one broker' if count == 1 else 'Envoy, three brokers'}, {STORES[store]}"


def read(out):
    """The figures that there are, in the order of the deployments."""
    files = {name: out / name / "figures.json" for name in DEPLOYMENTS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def problem(found):
    """Why these are no figures of one comparison, or None."""
    missing = [name for name in DEPLOYMENTS if name not in found]
    if missing:
        return f"there are no figures of {', '.join(missing)} yet"
    if any(figures["settings"] != FULL for figures in found.values()):
        return "there are figures with other settings than those of a full run"
    for same in ("walcast", "when", "machine"):
        values = sorted({figures[same] for figures in found.values()})
        if len(values) > 1:
            return f"there are figures of {' and of '.join(values)}"
    for name, figures in found.items():
        left_out = [script for script in SCRIPTS if script not in figures["scripts"]]
        if left_out:
            return f"{name} lacks {', '.join(left_out)}"
    return None


def number(value):
    """Three digits of it."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def cells(figures):
    """A row of a table: rates, latencies, dropped calls, exit code, processors."""
    rates = [figures["calls"] / figures["seconds"]] if figures["calls"] else []
    rates += [figures["deliveries"] / figures["seconds"]] if figures["deliveries"] else []
    triples = [" / ".join(map(number, latencies)) for latencies in figures["latencies_ms"].values()]
    processors = figures["processor_seconds"]
    mine = processors["k6"] / figures["seconds"]
    theirs = (sum(processors.values()) - processors["k6"]) / figures["seconds"]
    refused = [f"{figures['refused']:,}"] if "publish within" in figures["latencies_ms"] else []
    return [*(f"{rate:,.0f}" for rate in rates), *triples, f"{figures['dropped']:,}", *refused, str(figures["code"]), f"{mine:.2f} / {theirs:.2f}"]


def heads(figures):
    rates = ["calls/s"] if figures["calls"] else []
    rates += ["deliveries/s"] if figures["deliveries"] else []
    refused = ["refused"] if "publish within" in figures["latencies_ms"] else []
    return [*rates, *(f"{name}, ms" for name in figures["latencies_ms"]), "dropped", *refused, "exit code", "processors: k6 / all else"]


def tables(found):
    """(script, heads, rows) of each script, a row a deployment."""
    for script in SCRIPTS:
        having = {name: figures["scripts"][script] for name, figures in found.items() if script in figures["scripts"]}
        if having:
            yield script, ["deployment", *heads(next(iter(having.values())))], {name: [called(name), *cells(figures)] for name, figures in having.items()}


def how(found):
    """When, where, what."""
    first = next(iter(found.values()))
    settings = " ".join(f"{name}={value}" for name, value in first["settings"].items())
    return (f"{first['walcast']}, {first['when']}, {first['machine']}. `{settings}`. Latencies are median / 95th / 99th percentile as k6 sees them. "
            "A delivery is timed in whole milliseconds. Rates are means with the ramp.")


def markdown(found):
    lines = [how(found), ""]
    for script, head, rows in tables(found):
        lines += [f"**`{script}.js`**: {WHAT[script]}.", "", f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in rows.values()] + [""]
    codes = ", ".join(str(figures["control"]) for figures in found.values())
    lines += [f"With `MAX_P99_MS=0`, which nothing can keep, k6 ended with {codes}."]
    return "\n".join(lines)


def write(page, found):
    """Puts the tables between the marks."""
    text = page.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{markdown(found)}\n{END}{after}")


STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1400px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem;font-variant-numeric:tabular-nums}td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
td:first-child,th:first-child{text-align:left}h2{font-size:1.1rem;margin:0}img{max-width:100%}.bad{background:#fdd}"""


def index(out, found):
    """out/index.html with the same tables, each row leading to k6's page of that run."""
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>walcast under k6</title><style>{STYLE}</style><h1>walcast under k6</h1>"]
    parts += [f"<p>{html.escape(how(found)).replace('`', '')}</p>"]
    if (out / "latency.svg").exists():
        parts += ['<img src="latency.svg" alt="Latencies of each script and deployment">']
    for script, head, rows in tables(found):
        parts += [f"<h2>{script}.js</h2>{html.escape(WHAT[script])}.<table><tr>{''.join(f'<th>{html.escape(each)}</th>' for each in head)}</tr>"]
        for name, row in rows.items():
            bad = " class=bad" if found[name]["scripts"][script]["code"] else ""
            link = f'<a href="{name}/{script}.html">{html.escape(row[0])}</a>'
            parts += [f"<tr{bad}><td>{link}</td>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row[1:])}</tr>"]
        parts += ["</table>"]
    (out / "index.html").write_text("\n".join(parts))


def machine():
    """Processors, memory and file system, in a few words."""
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "processor")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    place = subprocess.run(["findmnt", "-no", "FSTYPE", "-T", "."], capture_output=True, text=True).stdout.strip()
    return f"{os.cpu_count()} x {model}, {memory:.0f} GiB, {place}"


def today():
    return datetime.now(timezone.utc).strftime("%Y-%m-%d")
