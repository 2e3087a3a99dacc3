# ruff: noqa: INP001, T201 - a script, not part of a package; it prints what it did
"""The classic monitors in a training script: a small encoder-decoder learns to turn digits round.

    python examples/training_with_attention_example.py --mode full
    python examples/training_with_attention_example.py --mode lightweight
    python examples/training_with_attention_example.py --mode custom

Under a minute on a CPU. ``full`` draws the maps of the first and the last layer, ``lightweight``
keeps statistics only, ``custom`` shows the settings: every layer and head, comparisons, raw
weights, and the first step of chosen epochs. The settings of ``custom`` are a block of JSON, as a
configuration file may hold it.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn

import trackside

NUM_DIGITS = 10
START = NUM_DIGITS  # the decoder's first token
LENGTH = 8
WIDTH = 64
BATCH = 32
STEPS_PER_EPOCH = 40
DAEMON_TIMEOUT_S = 30.0  # the daemon may still be starting when a short training ends

CUSTOM = """{
  "attention_monitoring": {
    "enabled": true,
    "lightweight_mode": false,
    "save_frequency": 50,
    "save_on_epochs": [0, 2],
    "visualization_types": ["heatmap", "statistics", "multi_head", "layer_comparison"],
    "batch_idx_to_visualize": 1,
    "layers_to_visualize": null,
    "heads_to_visualize": "all",
    "save_raw_weights": true
  }
}"""

Monitor = trackside.TrainingAttentionMonitor | trackside.LightweightAttentionMonitor


class Reverser(nn.Module):
    """Writes a row of digits backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(NUM_DIGITS + 1, WIDTH)
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.5)
        self.transformer = nn.Transformer(
            WIDTH,
            nhead=4,
            num_encoder_layers=2,
            num_decoder_layers=2,
            dim_feedforward=2 * WIDTH,
            dropout=0.0,
            batch_first=True,
        )  # fmt: skip - one line for the shape, one for the rest
        self.out = nn.Linear(WIDTH, NUM_DIGITS)

    def forward(self, enc: torch.Tensor, dec: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, length, digits] for tokens [batch, length] each."""
        hidden = self.transformer(
            self.tokens(enc) + self.positions,
            self.tokens(dec) + self.positions,
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(dec.shape[1]),
            tgt_is_causal=True,
        )
        logits: torch.Tensor = self.out(hidden)
        return logits


def make_monitor(mode: str, out: Path) -> Monitor:
    """Return the monitor of a mode."""
    if mode == "lightweight":
        return trackside.LightweightAttentionMonitor(out, save_frequency=40)
    if mode == "custom":
        config = json.loads(CUSTOM)
        config["attention_monitoring"]["save_dir"] = str(out)
        return trackside.monitor_from_config(config)
    return trackside.TrainingAttentionMonitor(out, save_frequency=50, save_on_epochs=(1,))


def train(monitor: Monitor, num_steps: int) -> None:
    """Train, and tell the monitor of every step."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model is slower on several, above all on a busy machine
    model = Reverser()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    with monitor:
        for step in range(1, num_steps + 1):
            enc = torch.randint(NUM_DIGITS, (BATCH, LENGTH))
            target = enc.flip(1)
            dec = torch.cat((torch.full((BATCH, 1), START), target[:, :-1]), dim=1)
            loss = nn.functional.cross_entropy(model(enc, dec).flatten(0, 1), target.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            epoch = (step - 1) // STEPS_PER_EPOCH
            monitor.log_attention(model, enc, dec, step, loss, epoch=epoch)
            if step % STEPS_PER_EPOCH == 0:
                print(f"step {step} loss {loss.item():.3f}")


def wait_for_daemon(out: Path, started_s: float) -> bool:
    """Return whether the daemon has written everything in time."""
    totals = out / "training_statistics.json"
    deadline = time.monotonic() + DAEMON_TIMEOUT_S
    while time.monotonic() < deadline:
        if totals.exists() and totals.stat().st_mtime >= started_s:
            return True
        time.sleep(0.1)
    return False


def main() -> None:
    """Train in one of the modes and say where the outputs are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mode", choices=("full", "lightweight", "custom"), default="full")
    parser.add_argument("--out", type=Path, default=Path("trackside_logs/example"))
    parser.add_argument("--steps", type=int, default=160)
    arguments = parser.parse_args()
    out = (arguments.out / arguments.mode).absolute()

    started_s = time.time()
    train(make_monitor(arguments.mode, out), arguments.steps)

    if not wait_for_daemon(out, started_s):
        print("the daemon has not finished: pip install 'trackside[daemon]', or see its status")
    print(f"outputs in {out}")
    for folder in sorted(out.glob("*step_*")):
        print(f"  {folder.name}: {len(list(folder.rglob('*.*')))} files")
    print(f"curves: tensorboard --logdir {out / 'tensorboard'}")


if __name__ == "__main__":
    main()
