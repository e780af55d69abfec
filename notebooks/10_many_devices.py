# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Many devices
#
# The rows are dealt out to the devices and stay there. In an iteration every device makes the statistics of its own
# rows, one all-reduce adds them up, and all devices make the same M-step. Nothing else is sent.
#
# This notebook pretends that the processor is eight devices; on eight GPUs, or on many hosts, the code is the same.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxem
from jaxem.engine import programs

jax.config.update("jax_num_cpu_devices", 8)  # before anything runs
plt.rcParams |= {"figure.dpi": 85, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}

rng = np.random.default_rng(0)
n, d, k = 20_003, 3, 4
x = (2 * rng.normal(size=(k, d)))[rng.integers(k, size=n)] + rng.normal(size=(n, d))
x = x.astype(np.float32)
model = jaxem.gaussian_mixture(k)
start = model.init(jax.random.key(0), x)

mesh = jax.make_mesh((8,), ("rows",))
rows, weights = jaxem.shard_rows(x, mesh)
for shard in rows.addressable_shards[:3]:
    print(shard.device, shard.data.shape)
print(f"... {rows.shape[0] - n} rows of weight 0 fill up the last ones, and count for nothing: {int(weights.sum())}")

# %% [markdown]
# `fit` takes such rows as they are:

# %%
many = jaxem.fit(model, rows, start, weights=weights, tol=0.0, max_steps=30)
one = jaxem.fit(model, x, start, tol=0.0, max_steps=30)
print(f"eight devices {float(many.log_lik):.2f}, one {float(one.log_lik):.2f}")
print(f"the same to 1e-5: {abs(float(many.log_lik / one.log_lik) - 1) < 1e-5}")

# %% [markdown]
# ## What is sent
#
# The compiled program tells. Statistics and log-likelihood travel as one vector:

# %%
seen = []
compiled = programs.iterate.default


def spy(*args, **kwargs):
    seen.append(compiled.lower(*args, **kwargs).compile().as_text())
    return compiled(*args, **kwargs)


kept, programs.iterate.variants = programs.iterate.variants, [spy] * 3
jaxem.fit(model, rows, start, weights=weights, max_steps=7)
programs.iterate.variants = kept
lines = [line for line in seen[0].splitlines() if " all-reduce(" in line]
shape = lines[0].split("all-reduce(")[0].split("=")[1].strip()
print(f"all-reduces in the program of the loop: {len(lines)}, of {shape}")
per_component = f"(1 + {d} + {d * (d + 1) // 2})"
print(f"{k} x {per_component} sums over rows, {k} + {k} counts for weights and covariances, 1 log-likelihood")

# %% [markdown]
# ## Restarts over devices
#
# A second axis deals out the starts. Its groups do not wait for each other: each has a queue of its own.

# %%
grid = jax.make_mesh((2, 4), ("restarts", "rows"))
rows2, weights2 = jaxem.shard_rows(x, grid)
best, every = jaxem.fit_restarts(model, rows2, jax.random.key(1), weights=weights2, n_restarts=6, tol=1e-5)
print(f"{best.message.split(':')[0]}, steps of the six: {np.asarray(every.n_steps)}")

# %% [markdown]
# ## Is it worth it?
#
# A step of a full mixture costs about $4 n k f$ operations, $f = (d+1)(d+2)/2$, shared by all devices, and one
# all-reduce of $k f$ numbers, in which every device takes part. The first shrinks with the number of devices and the
# second does not. With round numbers for a data-centre accelerator (20 Tflop/s in float32, 50 GB/s and 20 microseconds
# for each doubling of the group) the model says when to stop:

# %%
devices = 2 ** np.arange(11)
fig, axes = plt.subplots(figsize=(6.6, 3.6), layout="constrained")
for total, colour in ((10**6, "#8d96a3"), (10**8, "#30638e"), (10**10, "#d1495b")):
    features, components = 33 * 34 / 2, 64
    work = 4 * total * components * features / devices / 20e12
    sent = np.where(devices > 1, 2 * 4 * components * features / 50e9 + 20e-6 * np.log2(devices), 0)
    axes.plot(devices, work + sent, color=colour, label=f"$10^{{{int(np.log10(total))}}}$ rows")
    axes.plot(devices, work, ":", color=colour)
axes.set(xscale="log", yscale="log", xlabel="devices", ylabel="seconds per iteration")
axes.set_title("d = 32, k = 64; dotted: nothing sent")
axes.legend()
plt.show()
print(f"sent per iteration and device: {4 * 64 * 561 / 1024:.0f} KiB, however many rows there are")

# %% [markdown]
# ## Many hosts
#
# The same program runs as several processes, one per host, each with its own rows:
#
#     jax.distributed.initialize()                      # on a cluster or a pod it finds the others by itself
#     mesh = jax.make_mesh((jax.device_count(),), ("rows",))
#     rows, weights = jaxem.shard_rows(my_rows, mesh)   # this process's rows; hosts may have different numbers
#     fit = jaxem.fit(model, rows, start, weights=weights)
#
# Under Slurm it is `srun python fit.py` with one task per node; on plain machines give `initialize` the address of the
# first, the number of processes and the index of this one. Every process must make the same calls with the same start
# and options, and gets the same result. On processors without a fast network, `gloo` carries the sums:
# `jax.config.update("jax_cpu_collectives_implementation", "gloo")` before `initialize`. A checkpoint is written by the
# first process and read by all of them, so its path has to be one that they share.
