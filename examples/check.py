"""Runs the examples in Rust against a broker, each to an end that can be checked: what they have written is compared with what
was produced, over two runs of each, so that what the first has done is not done again. Only the standard library is needed.

    python3 examples/check.py URL --sawlog target/release/sawlog --examples target/debug/examples \
        --sqlx target/debug/sawlog-example-sqlx --postgres "host=127.0.0.1 user=postgres dbname=postgres"
"""

import argparse
import json
import pathlib
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading

ORDERS, PATIENCE_S = 20, 60


class Difference(Exception):
    """Something is not as it should be."""


def expect(found, wanted, what: str) -> None:
    if found != wanted:
        raise Difference(f"{what}: found {found!r}, expected {wanted!r}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the examples in Rust against a broker.")
    parser.add_argument("url", help="where the broker is, such as http://127.0.0.1:7070")
    parser.add_argument("--sawlog", type=pathlib.Path, required=True, help="the binary")
    parser.add_argument("--examples", type=pathlib.Path, required=True, help="folder of the examples of the client")
    parser.add_argument("--sqlx", type=pathlib.Path, help="the example with sqlx")
    parser.add_argument("--postgres", help="how PostgreSQL is reached")
    return parser.parse_args()


ARGUMENTS = parse_arguments()


def sawlog(*arguments: str, given: str = "") -> str:
    command = [ARGUMENTS.sawlog, *arguments, "--url", ARGUMENTS.url]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=PATIENCE_S)
    if done.returncode:
        raise Difference(f"{' '.join(arguments)}: {done.stderr}")
    return done.stdout


def run(program: pathlib.Path, *arguments: str, until=None) -> list[str]:
    """Lines that a program prints up to its end; with `until` it is interrupted once that is true of them."""
    with subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, text=True) as process:
        overdue = threading.Timer(PATIENCE_S, process.kill)
        overdue.start()
        lines, interrupted = [], False
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if until and not interrupted and until(lines):
                process.send_signal(signal.SIGINT)
                interrupted = True
        code = process.wait()
        overdue.cancel()
    expect(code, 0, f"exit code of {program.name} after {lines[-3:]}")
    return lines


def produce(numbers: range) -> None:
    """Order lines, three of an order in a row."""
    line = lambda number: {  # noqa: E731
        "key": f"order-{number // 3 % ORDERS}",
        "value": {"quantity": number % 5 + 1, "unit_pence": 100 + number},
    }
    sawlog("produce", "order-lines", "--json", given="".join(json.dumps(line(number)) + "\n" for number in numbers))


def log() -> list[dict]:
    return [json.loads(line) for line in sawlog("consume", "order-lines", "--output", "json").splitlines()]


def check_audit(lines: list[dict], before: int) -> None:
    """Writes down each line that the run before has not, those of an order in order."""
    fresh = len(lines) - before
    found = run(ARGUMENTS.examples / "audit", ARGUMENTS.url, until=lambda printed: len(printed) == fresh)
    expect(len(found), fresh, "lines written down")
    known = {f"{line['partition']} {line['offset']} {line['value']}": line for line in lines}
    written = [known[line] for line in found]
    for key in {line["key"] for line in written}:
        offsets = [line["offset"] for line in written if line["key"] == key]
        expect(offsets, sorted(offsets), f"order of {key}")


def worth(lines: list[dict]) -> dict:
    """Lines and pence of each order, by a plain computation."""
    orders: dict = {}
    for line in lines:
        value = json.loads(line["value"])
        count, pence = orders.get(line["key"], (0, 0))
        orders[line["key"]] = (count + 1, pence + value["quantity"] * value["unit_pence"])
    return orders


def model(path: str) -> dict:
    with sqlite3.connect(path) as database:
        return {order.decode(): (lines, pence) for order, lines, pence in database.execute("SELECT id, lines, pence FROM orders")}


def check_model(program: pathlib.Path, path: str, lines: list[dict], before: int, ends: bool) -> None:
    """Keeps the worth of each order, and applies what the run before has not."""
    wanted = f"up to date: {len(lines) - before} lines applied by this program"
    found = run(program, path, ARGUMENTS.url, until=None if ends else lambda printed: wanted in printed)
    expect(found[-1], wanted, program.name)
    expect(model(path), worth(lines), f"the model of {program.name}")


def check_outbox(runs: int) -> None:
    """Brings the events of ten orders into the log, each once and in the order of its aggregate."""
    found = run(ARGUMENTS.examples / "outbox_relay", ARGUMENTS.postgres, ARGUMENTS.url)
    expect(found, ["20 events published, 0 wait, 0 parked"], "what the relay says")
    events = [json.loads(line) for line in sawlog("consume", "orders", "--output", "json").splitlines()]
    states: dict = {}
    for event in events:
        value = json.loads(event["value"])
        states.setdefault(value["order"], []).append(value["state"])
    expect(len(states), 10 * runs, "orders in the log")
    expect({tuple(of) for of in states.values()}, {("placed", "paid")}, "events of an order")


def main() -> None:
    sawlog("topic", "create", "order-lines", "--partitions", "4")
    done = ["audit", "orders"] + (["sqlx"] if ARGUMENTS.sqlx else []) + (["outbox_relay"] if ARGUMENTS.postgres else [])
    with tempfile.TemporaryDirectory() as folder:
        before = 0
        for runs, numbers in enumerate([range(300), range(300, 360)], 1):
            produce(numbers)
            lines = log()
            expect(len(lines), numbers.stop, "lines produced")
            check_audit(lines, before)
            check_model(ARGUMENTS.examples / "orders", f"{folder}/orders.db", lines, before, ends=False)
            if ARGUMENTS.sqlx:
                check_model(ARGUMENTS.sqlx, f"{folder}/sqlx.db", lines, before, ends=True)
            if ARGUMENTS.postgres:
                check_outbox(runs)
            before = len(lines)
    print(f"examples in Rust: {', '.join(done)} did what they say, twice")


if __name__ == "__main__":
    try:
        main()
    except (Difference, subprocess.TimeoutExpired) as difference:
        sys.exit(f"examples in Rust: {difference}")
