"""Take the picture of a report that the README shows. Needs Debian's package `chromium`.

python docs/pictures/report.py [REPORT]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

PICTURE = Path(__file__).resolve().with_name("report.png")
SIZE = "1000,840"


def main(report: str = "reports/report.html") -> None:
    """Open the report in headless Chromium and save its first screen."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                "chromium",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                f"--window-size={SIZE}",
                f"--screenshot={PICTURE}",
                Path(report).resolve(strict=True).as_uri(),
            ],
            check=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
