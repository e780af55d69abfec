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
# # Large data
#
# An E-step adds up statistics over rows, so nothing has to be in memory at once. `fit_stream` reads the rows anew in
# every iteration, a block ahead of the computation, from whatever can be read again.

# %%
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxem

plt.rcParams |= {"figure.dpi": 85, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
n, d, k = 300_000, 4, 4
centres = 2.5 * rng.normal(size=(k, d))
rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, (n, d))
rows[:] = centres[rng.integers(k, size=n)] + rng.normal(size=(n, d))
rows.flush()

x = np.load(folder / "rows.npy", mmap_mode="r")
model = jaxem.gaussian_mixture(k)
starts = jaxem.subsampled_starts(model, x, jax.random.key(0), 2_000, n_restarts=16)
start = jax.tree.map(lambda leaf: leaf[0], starts)

streamed = jaxem.fit_stream(model, x, start, tol=1e-6, chunk_size=1 << 16)
in_memory = jaxem.fit(model, np.array(x), start, tol=1e-6)
print(streamed.message)
print(f"from the file {float(streamed.log_lik):.0f}, in memory {float(in_memory.log_lik):.0f}")
print(f"relative difference below 1e-6: {abs(float(streamed.log_lik / in_memory.log_lik) - 1) < 1e-6}")

# %% [markdown]
# The start is the best of many fits of a few thousand rows: with large data that is where restarts belong.
#
# ## What a source can be
#
# Anything with a shape and slices (an array, a memmap, HDF5, Zarr), a list of arrays, an object with `__iter__`, or a
# function that returns a fresh iterator. A Parquet file, however large, is one line:
#
#     rows = pyarrow.dataset.dataset("rows.parquet")
#     jaxem.fit_stream(model, lambda: (batch.to_pandas() for batch in rows.to_batches()), start)
#
# What can be read only once is refused, because every iteration reads all rows; and a source that fails on the way
# raises an error which has the fit so far in it.

# %%
try:
    jaxem.fit_stream(model, (part for part in np.split(x[:3000], 3)), start)
except ValueError as error:
    print(error)


class Unreliable:
    reads = 0

    def __iter__(self):
        Unreliable.reads += 1
        yield x[:3000]
        if Unreliable.reads > 4:
            raise OSError("the network drive is gone")
        yield x[3000:6000]


try:
    jaxem.fit_stream(model, Unreliable(), start)
except jaxem.SourceError as error:
    print(error)
    print(
        f"what is left of the fit: {int(error.result.n_steps)} steps, log-likelihood {float(error.result.log_lik):.1f}"
    )

# %% [markdown]
# ## Interrupted, and gone on
#
# `checkpoint=` keeps all there is of a fit in a file, which is replaced as the fit goes on and never half written. A
# call with the same arguments goes on from there, to the same bits as if nothing had happened; so it does after Ctrl-C,
# a power cut or `kill -9`. Here a callback ends the fit after its third step.

# %%
seen = []


def stop_early(progress):
    seen.append(progress)
    return len(seen) == 3


options = dict(tol=1e-6, chunk_size=1 << 16, checkpoint=folder / "fit.npz")
cut = jaxem.fit_stream(model, x, start, callback=stop_early, **options)
print(cut.message)
again = jaxem.fit_stream(model, x, start, **options)
same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), again.params, streamed.params)
print(f"gone on from step {int(cut.n_steps)} to {int(again.n_steps)}; the same bits: {all(jax.tree.leaves(same))}")

# %% [markdown]
# ## Online EM
#
# EM looks at all rows before it moves. Online EM moves after every batch: the statistics are a running mean in which
# new batches count for less and less. After one pass it has made hundreds of small steps.

# %%
poor = model.init(jax.random.key(1), np.array(x[:500]))
online = jaxem.fit_stream(model, x, poor, algorithm=jaxem.OnlineEM(), max_steps=4)
exact = jaxem.fit_stream(model, x, poor, tol=0.0, max_steps=30)
fig, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
axes.plot(np.arange(1, 31), np.asarray(exact.history) / n, "o-", ms=3, color="#30638e", label="EM")
passes = int(online.n_steps)
online_path = np.asarray(online.history)[:passes] / n
axes.plot(np.arange(1, passes + 1), online_path, "s-", color="#d1495b", label="online EM (batches, as it met them)")
axes.axhline(float(online.log_lik) / n, ls=":", color="#d1495b", label="online EM (its final params)")
axes.set(xscale="log", xlabel="passes over the data", ylabel="nats per row")
axes.legend()
plt.show()
behind = int(np.sum(np.asarray(exact.history) < float(online.log_lik)))
print(f"of the first 30 EM steps, {behind} are behind {passes} passes of online EM")

# %% [markdown]
# The last digits are for EM, which goes on from these params. Online EM wants rows in random order, and its steps get
# shorter with time, so it does not help where EM itself crawls.
#
# When data keep coming, `fit_partial` goes on with each new batch:

# %%
state = start
for batch in np.array_split(np.array(x[:60_000]), 12):
    state = jaxem.fit_partial(model, batch, state)
unseen = model.log_prob(state.params, np.array(x[-20_000:])).mean()
print(f"{int(state.trail.n_steps)} batches so far; nats per unseen row {float(unseen):.3f}")
