"""Take the numbers of the atlas anew from the pages of findings: run it when a page was written anew.

    python scripts/atlas_numbers.py

Which number stands where is written in `src/cutaway/atlas/data/*.tsv`; one whose place is gone is an error.
"""

from pathlib import Path

from cutaway.atlas.evidence import TABLES, filled

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Write both tables again."""
    for table in TABLES:
        path = ROOT / "src" / "cutaway" / "atlas" / "data" / table
        path.write_text(
            filled(table, lambda name: (ROOT / "docs" / name).read_text(encoding="utf-8")), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
