#!/usr/bin/env python3
"""Compares `sawlog demo` with a plain computation of the same order lines, to the penny.

Usage: revenue.py SAWLOG

It runs the demonstration on the shipped day and on the whole month, and computes revenue by country and by customer, and
which lines must have become dead letters, from the CSV alone, with decimals. It exits with 0 only if all is equal.
"""

import collections
import csv
import decimal
import gzip
import io
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
DAY = HERE.parent / "src" / "demo" / "order-lines.csv"
MONTH = HERE / "data" / "online-retail-2010-12.csv.gz"
# What is known of the month: failed, parked, parked sales and their worth, lines that are no sale, revenue.
KNOWN_MONTH = (149, 855, 731, "45930.78", 273, "748957.02")


def fault(row: dict) -> str | None:
    """Why a line is no sale."""
    if not row["Description"].strip():
        return "NO_DESCRIPTION"
    return "NO_PRICE" if decimal.Decimal(row["UnitPrice"]) <= 0 else None


def compute(text: str) -> dict:
    by_country, by_customer = collections.defaultdict(decimal.Decimal), collections.defaultdict(decimal.Decimal)
    failed, dead = collections.Counter(), set()
    parked, parked_sales, parked_worth, no_sale = 0, 0, decimal.Decimal(0), 0
    for row in csv.DictReader(io.StringIO(text)):
        why, behind = fault(row), row["InvoiceNo"] in dead
        parked += behind
        if why is None:
            worth = int(row["Quantity"]) * decimal.Decimal(row["UnitPrice"])
            by_country[row["Country"]] += worth
            by_customer[row["CustomerID"]] += worth
            parked_sales += behind
            parked_worth += worth if behind else 0
        else:
            no_sale += 1
            if not behind:
                failed[why] += 1
                dead.add(row["InvoiceNo"])
    pence = lambda sums: {name: int(worth * 100) for name, worth in sums.items()}  # noqa: E731
    return {
        "dead_letters": {"failed": dict(failed), "parked": parked},
        "parked_sales": [parked_sales, int(parked_worth * 100)],
        "no_sale": no_sale,
        "by_country": pence(by_country),
        "by_customer": pence(by_customer),
    }


def demonstrate(sawlog: str, arguments: list) -> dict:
    done = subprocess.run([sawlog, "demo", "--output", "json", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"sawlog demo failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def compare(what: str, shown: dict, wanted: dict) -> None:
    for group, letters in shown["dead_letters"]:
        if letters != wanted["dead_letters"]:
            sys.exit(f"{what}: dead letters of {group}: {letters}, should be {wanted['dead_letters']}")
    for name in ("parked_sales", "by_country", "by_customer"):
        if shown[name] != wanted[name]:
            odd = shown[name], wanted[name]
            sys.exit(f"{what}: {name} differs: {odd}")
    if shown["revenue_pence"] != sum(wanted["by_country"].values()):
        sys.exit(f"{what}: revenue {shown['revenue_pence']}")
    print(f"{what}: {len(wanted['by_country'])} countries, {len(wanted['by_customer'])} customers and all dead letters are equal")


def main() -> None:
    sawlog = sys.argv[1]
    day = DAY.read_text(encoding="utf-8")
    compare("the day", demonstrate(sawlog, []), compute(day))
    month = gzip.decompress(MONTH.read_bytes()).decode()
    wanted = compute(month)
    letters = wanted["dead_letters"]
    pounds = lambda pence: str(decimal.Decimal(pence) / 100)  # noqa: E731
    found = (sum(letters["failed"].values()), letters["parked"], wanted["parked_sales"][0], pounds(wanted["parked_sales"][1]),
             wanted["no_sale"], pounds(sum(wanted["by_country"].values())))
    if found != KNOWN_MONTH:
        sys.exit(f"this program computes {found}, known is {KNOWN_MONTH}")
    with tempfile.NamedTemporaryFile(mode="w", suffix=".csv", encoding="utf-8") as file:
        file.write(month)
        file.flush()
        compare("the month", demonstrate(sawlog, ["--file", file.name]), wanted)


if __name__ == "__main__":
    main()
