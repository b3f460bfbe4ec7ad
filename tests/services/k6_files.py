"""Whether a run of k6 left what it says: `k6_files.py OUT/NAME` looks at NAME.json and NAME.html."""

import json
import re
import sys

name = sys.argv[1]
with open(f"{name}.json") as file:
    metrics = json.load(file)["metrics"]
with open(f"{name}.html") as file:
    page = file.read()
# In a summary the booleans of thresholds say whether they were crossed.
crossed = [f"{metric} {threshold}" for metric, found in metrics.items() for threshold, bad in found.get("thresholds", {}).items() if bad]
assert not crossed, f"crossed: {crossed}"
assert any(found.get("thresholds") for found in metrics.values()), "no threshold"
assert metrics["checks"]["passes"] > 0, "no check"
elsewhere = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?!data:)([^"]*)"', page)
assert page.lstrip().startswith("<!") and not elsewhere, f"the page loads {elsewhere}"
