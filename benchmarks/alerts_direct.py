"""A labelled run of `benchmarks/alerts.py` whose steps are judged in the trainer's own process.

    python benchmarks/alerts_direct.py CASE STEPS FAULT_STEP SEED ...

The daemon's code from the record to the alert, without the daemon: no files, so that thousands of
steps take minutes. Prints one JSON line for each seed: the alerts, and how many steps there were.
"""

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from alerts_trainer import train

from trackside.wire.records import Hello, RecordKind, Step, decode
from trackside.wire.ring import RingReader
from trackside.wire.segment import node_directory, scan
from tracksided.alerts.catalog import AlertSettings
from tracksided.alerts.document import alert_document
from tracksided.analysis import analyse
from tracksided.assemble import RankStep, assemble
from tracksided.reports import Alert
from tracksided.rule_evaluator import RuleEvaluator
from tracksided.samples import StepSamples, build_sample
from tracksided.sinks.json_file import encode

RUN = "benchmark"


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    case, steps, since = arguments[0], int(arguments[1]), int(arguments[2])
    for seed in map(int, arguments[3:]):
        alerts, num_steps = judge(case, seed, steps, since)
        found = [alert_document(alert) for alert in alerts]
        print(encode({"seed": seed, "steps": num_steps, "alerts": found}).decode(), end="")


def judge(case: str, seed: int, steps: int, since: int) -> tuple[list[Alert], int]:
    evaluator = RuleEvaluator(RUN, AlertSettings())
    alerts: list[Alert] = []
    reader: RingReader | None = None
    num_steps = 0
    for _ in train(case, seed, steps, since, Path(tempfile.gettempdir()) / "unused"):
        if reader is None:
            (path,) = scan(node_directory(os.environ))
            reader = RingReader.open(path)
        while (record := reader.poll()) is not None:
            if record.kind == RecordKind.STEP:
                hello = decode(Hello, reader.hello())
                step = decode(Step, record.metadata)
                payload = memoryview(np.frombuffer(record.payload, np.uint8).copy())
                sample = build_sample(hello, step, payload)
                analysis = analyse(
                    StepSamples(hello.run, step.step, (sample,)),
                    visualize=(),
                    with_pictures=False,
                    with_statistics=True,
                )
                report = assemble([RankStep(hello, step)], analysis)
                written = json.loads(encode(report.history))
                alerts += evaluator.complete(replace(report, history=written), None).alerts
                num_steps += 1
            reader.commit(record.end)
    if reader is not None:
        reader.close()
        path.unlink()
    return alerts, num_steps


if __name__ == "__main__":
    main(sys.argv[1:])
