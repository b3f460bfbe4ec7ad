#!/usr/bin/env python3
"""Writes dashboards/*.json from boards/*.py.

    target/services/venv/bin/python grafana/generate.py [FOLDER]     (FOLDER: grafana/dashboards without arguments)

`tests/services/install grafana-sdk` brings the library. A test writes them again and compares byte for byte.
"""

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from boards import delivery, envoy, overview, pipeline, resources, stores
from kit import build

BOARDS = {module.__name__.rsplit(".", 1)[-1]: module.BOARD for module in (overview, pipeline, delivery, stores, envoy, resources)}


def main() -> None:
    here = Path(__file__).parent
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else here / "dashboards"
    folder.mkdir(parents=True, exist_ok=True)
    encoder = JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False)
    for name, board in BOARDS.items():
        (folder / f"{name}.json").write_text(encoder.encode(build(board)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
