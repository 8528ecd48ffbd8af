"""The training loop that train_dates.py and train_masked.py share."""

import csv
import time
from pathlib import Path

import torch


def arguments(parser):
    """Add the options of `train` to a parser."""
    parser.add_argument("--minutes", type=float, default=60, help="training time, pauses not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--muon", type=float, default=0.02, help="learning rate of the layers' matrices")
    parser.add_argument("--adamw", type=float, default=2e-3, help="that of all the rest")
    parser.add_argument(
        "--bfloat16", action="store_true", help="faster where the CPU has instructions for it"
    )
    parser.add_argument("--pause", type=Path, default=Path("pause"), help="wait while this file exists")
    return parser


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) in float32; torch's is in bfloat16, which is slow on many CPUs."""

    def __init__(self, matrices, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(matrices, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        """Move each matrix against the orthogonal matrix next to its gradient (with Nesterov's momentum)."""
        for group in self.param_groups:
            for p in group["params"]:
                sums = self.state[p].setdefault("momentum", torch.zeros_like(p))
                sums.mul_(group["momentum"]).add_(p.grad)
                update = orthogonal(p.grad.add(sums, alpha=group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def orthogonal(g):
    """Return about UVᵀ of a matrix's singular value decomposition, by five Newton-Schulz iterations."""
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (2.0315 * a @ a - 4.7750 * a) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def optimizers(model, muon, adamw):
    """Return Muon for the matrices of the layers and AdamW for the rest."""
    matrices, rest = [], []
    for name, p in model.named_parameters():
        hidden = p.dim() == 2 and (".layer." in name or ".h." in name)
        (matrices if hidden else rest).append(p)
    return [
        Muon(matrices, lr=muon),
        torch.optim.AdamW(rest, lr=adamw, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(step, elapsed):
    """Return the factor of the learning rate: 100 steps up, constant to 40 % of the time, linear to 2 %."""
    return min(1, (step + 1) / 100) * (1 if elapsed < 0.4 else 0.02 + 0.98 * max(0, 1 - elapsed) / 0.6)


def train(model, loss, batches, evaluate, out, args):
    """Train until the time is over, resuming from out/checkpoint.pt if it exists.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model, changed in place.
    loss : callable
        From the model and a batch to the loss.
    batches : callable
        From a step to an iterator over the batches from that step on.
    evaluate : callable
        From the model to its loss on the held-out data.
    out : Path
        The folder of checkpoint.pt and loss.csv.
    """
    torch.set_num_threads(args.threads)
    out.mkdir(parents=True, exist_ok=True)
    opts, checkpoint = optimizers(model, args.muon, args.adamw), out / "checkpoint.pt"
    base = [opt.param_groups[0]["lr"] for opt in opts]
    state = {"step": 0, "seconds": 0.0, "losses": []}
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        for opt, values in zip(opts, saved["opts"], strict=True):
            opt.load_state_dict(values)
        state = saved["state"]
    model.train()
    stream, recent = batches(state["step"]), []
    elapsed, saved_at = state["seconds"] / 60 / args.minutes, state["seconds"]
    while elapsed < 1:
        while args.pause.exists():
            time.sleep(1)
        began = time.time()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            value = loss(model, next(stream))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt, lr in zip(opts, base, strict=True):
            opt.param_groups[0]["lr"] = lr * rate(state["step"], elapsed)
            opt.step()
            opt.zero_grad()
        state["step"] += 1
        state["seconds"] += time.time() - began
        elapsed = state["seconds"] / 60 / args.minutes
        recent.append(value.item())
        if state["step"] % 100 == 0 or elapsed >= 1:
            row = [state["step"], sum(recent) / len(recent), evaluate(model)]
            state["losses"].append(row)
            recent = []
            print(f"{elapsed:4.0%}  step {row[0]}  train {row[1]:.4f}  held out {row[2]:.4f}", flush=True)
        if state["seconds"] - saved_at > 300 or elapsed >= 1:
            saved_at = state["seconds"]
            part = checkpoint.with_suffix(".part")
            torch.save(
                {"model": model.state_dict(), "opts": [o.state_dict() for o in opts], "state": state}, part
            )
            part.replace(checkpoint)
    with open(out / "loss.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([["step", "train", "held_out"], *state["losses"]])
    model.eval()


def save(model, tokenizer, out):
    """Save a model in float16 with its tokenizer, as transformers lays them out, and load its values back."""
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    model.float()
