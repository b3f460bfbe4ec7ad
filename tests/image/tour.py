"""The tour of README.md: its commands, run one after the other, and what they print against what is written there."""

import re
import subprocess

# What differs from run to run: times, ages, the log's identity, and sizes of what is in memory.
VARIES = [
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"up [\dhms ]+"), "up AGE"),
    (re.compile(r"id [0-9a-f]{32}"), "id LOG"),
    (re.compile(r"epoch \d+"), "epoch N"),
    (re.compile(r"\b[\d.]+ (B|[KM]iB) of"), "SIZE of"),
    (re.compile(r"connections +\d+ of"), "connections N of"),
    (re.compile(r"[ \t]+"), " "),
]


def blocks(text):
    """The blocks of commands of the tour: each a list of (command, lines that follow it)."""
    section = text.split("## A tour of 60 seconds", 1)[1].split("\n## ", 1)[0]
    found = []
    for block in re.findall(r"```\n(.*?)```", section, re.DOTALL):
        commands = []
        for line in block.splitlines():
            if line.startswith("$ "):
                commands.append((line[2:], []))
            else:
                commands[-1][1].append(line)
        found.append(commands)
    return found


def normal(line):
    for pattern, word in VARIES:
        line = pattern.sub(word, line.strip())
    return line


def walk(commands, client):
    """What is missing from, or not expected in, the output of the commands. Each line counts, and not which of two that run beside each other is first."""
    shell = ["walcast() { " + " ".join(client) + ' "$@"; }']
    for command, _ in commands:
        shell.append(command)
        # A subscriber has to be there before what it shall get is published.
        if command.endswith("&"):
            shell.append("sleep 2")
    shell.append("wait")
    done = subprocess.run(["bash", "-c", "\n".join(shell)], capture_output=True, text=True, timeout=120)
    # Bash says nothing of jobs when it is not interactive.
    got = sorted(normal(line) for line in (done.stdout + done.stderr).splitlines() if line.strip())
    wanted = sorted(normal(line) for _, lines in commands for line in lines if line.strip())
    missing = [line for line in wanted if wanted.count(line) > got.count(line)]
    more = [line for line in got if got.count(line) > wanted.count(line)]
    return "; ".join([f"missing {line!r}" for line in missing] + [f"not expected {line!r}" for line in more])
