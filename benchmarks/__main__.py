"""`python -m benchmarks [quick | full | gpu]`: run, print a table, write JSON and a figure."""

import argparse
import contextlib
import datetime
import json
import sys
import traceback
from pathlib import Path

import jax

from benchmarks import (
    accuracy,
    fewer_looks,
    first_fit,
    hidden_markov,
    large,
    measure,
    memory,
    per_iteration,
    report,
    restarts,
    scaling,
    time_to,
)

QUESTIONS = {
    "per_iteration": per_iteration,
    "restarts": restarts,
    "time_to": time_to,
    "fewer_looks": fewer_looks,
    "hidden_markov": hidden_markov,
    "accuracy": accuracy,
    "large": large,
    "memory": memory,
    "first_fit": first_fit,
    "scaling": scaling,
}
REPEATS = {"tiny": 1, "quick": 3, "full": 5, "gpu": 3}


def parse(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "size", nargs="?", default="quick", choices=tuple(REPEATS), help="tiny only shows that it runs; gpu: no rivals"
    )
    parser.add_argument("--only", nargs="+", choices=tuple(QUESTIONS), default=tuple(QUESTIONS), help="some questions")
    parser.add_argument("--repeats", type=int, help="rounds of which the least counts")
    parser.add_argument("--resume", action="store_true", help="go on with a run that stopped: keep its records")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results", help="folder for JSON and figure"
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    repeats = options.repeats or REPEATS[options.size]
    load = measure.load()
    if load > 0.5 and options.size != "tiny":
        print(f"The machine is not quiet (load {load}): times of this run say little.", file=sys.stderr)
    cases = [case for name in options.only for case in QUESTIONS[name].cases(options.size)]
    failed = []
    found = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "size": options.size,
        "rounds": repeats,
        "load_before": load,
        "machine": measure.machine(),
        "rules": report.RULES,
        "records": [],
    }
    # Some questions only: a file of their own, not over the answers of a whole run.
    asked = [] if set(options.only) == set(QUESTIONS) else sorted(options.only)
    path = options.out / f"{'-'.join([options.size, *asked])}.json"
    if options.resume and path.exists() and not (kept := json.loads(path.read_text()))["complete"]:
        found = {**kept, "resumed": True}
    done = {(record["question"], record["problem"]) for record in found["records"]}
    for number, case in enumerate(cases, 1):
        if (case.question, case.problem) in done:
            continue
        print(f"[{number}/{len(cases)}] {case.question}: {case.problem}", file=sys.stderr, flush=True)
        try:
            found["records"].append(run(case, repeats))
        except Exception as error:  # the others still have an answer
            failed.append(f"{case.question}: {case.problem}: {error!r}")
            traceback.print_exc()
            continue
        # After every case, so that one which fails takes nothing with it.
        report.write_json(
            {**found, "load_after": measure.load(), "complete": number == len(cases) and not failed}, path
        )
    report.draw(found, path.with_suffix(".png"))
    report.draw_scaling(found, path.with_name(path.stem + "-scaling.png"))
    print(report.table(found["records"]))
    print(f"\n{path}\n{path.with_suffix('.png')}")
    for line in failed:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if failed else 0


def run(case, repeats):
    """One case as a dict; float64 only where the case asks for it."""
    with jax.enable_x64(True) if case.dtype == "float64" else contextlib.nullcontext():
        found = case.run(repeats=repeats)
    jax.clear_caches()  # compiled programs hold memory maps, of which a process may have so many
    targets = [{**target._asdict(), "met": target.met(found.values)} for target in found.targets]
    return {
        "question": case.question,
        "problem": case.problem,
        "dtype": case.dtype,
        "unit": found.unit,
        "values": found.values,
        "targets": targets,
        "notes": found.notes,
    }


if __name__ == "__main__":
    sys.exit(main())
