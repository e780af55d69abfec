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
# # What EM does
#
# Expectation-Maximization on twenty numbers, slowly: every quantity that the algorithm touches is computed twice,
# once by the formula in the text and once by `jaxem`, and every claim is a number or a picture below.
#
# The numbers and the algorithm are those of Hastie, Tibshirani and Friedman, *The Elements of Statistical Learning*
# (2nd edition, 2009), section 8.5: table 8.1 and Algorithm 8.1. Equation numbers refer to that book (HTF) and to
# Bishop, *Pattern Recognition and Machine Learning* (2006).
#
# Sections: 1 the problem · 2 Algorithm 8.1, step by step · 3 the maximum, and what the book prints · 4 the bound
# under the log-likelihood · 5 why it never falls · 6 one function, climbed in turns · 7 label switching, local
# maxima, and no maximum · 8 k-means is the hard limit · 9 known labels · 10 EM against direct gradient ascent.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.colors import LinearSegmentedColormap

import jaxem
import jaxem.plot

jax.config.update("jax_enable_x64", True)  # the numbers below are shown to many digits
plt.rcParams |= {"figure.dpi": 85, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
BLUE, ORANGE, GREY = "tab:blue", "tab:orange", "0.55"
SHARED = LinearSegmentedColormap.from_list("shared", [BLUE, "0.92", ORANGE])

# %% [markdown]
# ## 1. The problem
#
# Twenty numbers that seem to come from two groups, without a label that says which number belongs to which group.

# %%
y = jaxem.datasets.twenty_numbers()
print(np.sort(y))

# %% [markdown]
# The model (HTF 8.36): toss a coin $\Delta_i$ with $\Pr(\Delta_i = 1) = \pi$; then draw $y_i$ from the second normal
# if it shows 1, and from the first if it shows 0. We see $y_i$ and never $\Delta_i$. With $\phi_\theta$ the normal
# density,
#
# $$
# p(y_i) = (1-\pi)\,\phi_{\theta_1}(y_i) + \pi\,\phi_{\theta_2}(y_i), \qquad
# \ell(\theta) = \sum_{i=1}^{20} \log\big[(1-\pi)\,\phi_{\theta_1}(y_i) + \pi\,\phi_{\theta_2}(y_i)\big],
# $$
#
# with five unknowns $\theta = (\mu_1, \sigma_1^2, \mu_2, \sigma_2^2, \pi)$. The sum *inside* the logarithm is the
# trouble: setting the derivatives to zero gives five equations, each of which contains all the unknowns. Two thought
# experiments show a way out.
#
# * **If we knew the labels**, we would be done at once: split the numbers, take the mean and variance of each part,
#   and count for $\pi$.
# * **If we knew the parameters**, Bayes' rule would give the probability of each label.
#
# EM does the two in turn.

# %% [markdown]
# ## 2. Algorithm 8.1, step by step
#
# **E-step** (HTF 8.42). Bayes' rule gives the *responsibility* of the second group for number $i$,
#
# $$
# \gamma_i = \Pr(\Delta_i = 1 \mid y_i, \theta) = \mathrm{E}[\Delta_i \mid y_i, \theta]
#          = \frac{\pi\,\phi_{\theta_2}(y_i)}{(1-\pi)\,\phi_{\theta_1}(y_i) + \pi\,\phi_{\theta_2}(y_i)} .
# $$
#
# **M-step**. The formulas for known labels, with $\gamma_i$ in the place of the unknown $\Delta_i$:
#
# $$
# \mu_1 = \frac{\sum_i (1-\gamma_i)\,y_i}{\sum_i (1-\gamma_i)}, \quad
# \sigma_1^2 = \frac{\sum_i (1-\gamma_i)(y_i-\mu_1)^2}{\sum_i (1-\gamma_i)}, \quad
# \mu_2 = \frac{\sum_i \gamma_i\,y_i}{\sum_i \gamma_i}, \quad
# \sigma_2^2 = \frac{\sum_i \gamma_i(y_i-\mu_2)^2}{\sum_i \gamma_i}, \quad
# \pi = \frac1{20}\sum_i \gamma_i .
# $$
#
# In code this is hardly longer than in print.


# %%
def density(y, mean, var):
    return jnp.exp(-((y - mean) ** 2) / (2 * var)) / jnp.sqrt(2 * jnp.pi * var)


def expectation_step(theta, y):
    mu1, var1, mu2, var2, pi = theta
    first, second = (1 - pi) * density(y, mu1, var1), pi * density(y, mu2, var2)
    return second / (first + second), jnp.log(first + second).sum()


def maximization_step(gamma, y):
    def mean_and_variance(w):
        mean = (w * y).sum() / w.sum()
        return mean, (w * (y - mean) ** 2).sum() / w.sum()

    return *mean_and_variance(1 - gamma), *mean_and_variance(gamma), gamma.mean()


# %% [markdown]
# The book's advice for a start: two of the numbers, at random, as the means, the variance of all the numbers for both
# groups, and $\pi = 1/2$. Here the two numbers are 1.80 and 0.12, a poor draw: both belong to the lower group.

# %%
theta = (1.80, y.var(), 0.12, y.var(), 0.5)
path = [theta]
for _ in range(60):
    gamma, log_lik = expectation_step(theta, y)
    theta = maximization_step(gamma, y)
    path.append(theta)

print("step     mu1    var1     mu2    var2      pi   log-likelihood")
for step in (0, 1, 2, 3, 5, 10, 20, 30, 40, 60):
    log_lik = expectation_step(path[step], y)[1]
    print(f"{step:4d}" + "".join(f"{float(v):8.4f}" for v in path[step]) + f"{float(log_lik):17.6f}")

# %% [markdown]
# The same in `jaxem`. A Gaussian mixture's data have one row per example, so twenty numbers go in as a column,
# `y[:, None]`; the parameters are `weights` $[k]$, `mean` $[k, d]$ and `cov` $[k, d, d]$, here with $k = 2$ and
# $d = 1$. (The book's $\pi$ is `weights[1]`.) `e_step(params, x)` returns the responsibilities of *all* components,
# one column each, and the log density of each row; `m_step(resp, x)` returns the next parameters.

# %%
x = y[:, None]
model = jaxem.gaussian_mixture(2)


def to_params(mu1, var1, mu2, var2, pi):
    """The book's five numbers as the library's parameters."""
    weights, mean, var = (jnp.stack([jnp.asarray(a, float), b]) for a, b in [(1 - pi, pi), (mu1, mu2), (var1, var2)])
    return jaxem.MixtureParams(weights, jaxem.GaussianParams(mean[:, None], var[:, None, None]))


params, theta = to_params(*path[0]), path[0]
for step in range(3):
    resp, log_prob = model.e_step(params, x)
    gamma, log_lik = expectation_step(theta, y)
    print(f"step {step}: largest difference in responsibilities {abs(resp[:, 1] - gamma).max():.0e}", end=", ")
    params, theta = model.m_step(resp, x), maximization_step(gamma, y)
    difference = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(abs(a - b).max()), params, to_params(*theta))))
    print(f"in the next parameters {difference:.0e}")
    assert abs(resp[:, 1] - gamma).max() < 1e-12
    assert difference < 1e-12

# %% [markdown]
# Below, the numbers are coloured by the group that answers for them. The first step pulls the groups together, so
# that most numbers are shared; then they move apart, and in the end only the numbers between them are undecided.

# %%
grid = np.linspace(-2, 8, 300)
fig, axes = plt.subplots(1, 4, figsize=(12, 2.6), sharey=True, layout="constrained")
for ax, step in zip(axes, (0, 1, 8, 40), strict=True):
    mu1, var1, mu2, var2, pi = path[step]
    gamma, log_lik = expectation_step(path[step], y)
    first, second = (1 - pi) * density(grid, mu1, var1), pi * density(grid, mu2, var2)
    ax.plot(grid, first + second, color=GREY, lw=3, label="mixture")
    ax.plot(grid, first, color=BLUE, label="first group")
    ax.plot(grid, second, color=ORANGE, label="second group")
    dots = ax.scatter(y, np.full(20, -0.012), c=gamma, cmap=SHARED, s=22, vmin=0, vmax=1, ec="0.3", lw=0.4)
    ax.set(xlabel="y", ylim=(-0.025, 0.27), xticks=[0, 2, 4, 6])
    ax.set_title(f"step {step}:  log-likelihood {log_lik:.2f}", fontsize=10)
axes[0].legend(fontsize=8, loc="upper right")
axes[0].set_ylabel("density")
fig.colorbar(dots, ax=axes, label=r"responsibility $\gamma_i$", aspect=12)
plt.show()

# %% [markdown]
# ## 3. The maximum, and what the book prints
#
# `fit` runs the two steps in one compiled loop until a step gains less than `tol` nats per example; `fit_restarts`
# does it from many starts at once.

# %%
best, every = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=64, tol=1e-13)
order = jnp.argsort(-best.params.components.mean[:, 0])  # the book lists the larger mean first
top = model.permute(best.params, order)
print(best.message)
for group in jaxem.optima(every):
    print(f"{group.n_restarts} of 64 restarts ended at {group.objective:.6f}: {group.statuses}")

# %% [markdown]
# The book (table 8.2 and the text around it) prints $\hat\mu = 4.62,\ 1.06$, $\hat\sigma^2 = 0.87,\ 0.77$,
# $\hat\pi = 0.546$. Is that the maximum, rounded? No: at a maximum the gradient is zero, and EM stands still.

# %%
book = to_params(4.62, 0.87, 1.06, 0.77, 0.546)
rounded = to_params(4.66, 0.82, 1.08, 0.81, 0.555)  # the maximum, given as many digits as the book has


def log_lik_of(params):
    return model.log_prob(params, x).sum()


def gradient_norm(params):
    gradient = jax.grad(lambda free: log_lik_of(jaxem.constrain(model, free)))(jaxem.unconstrain(model, params))
    return float(optax.tree_utils.tree_norm(gradient))


print("                             mu1      mu2     var1     var2       pi   log-likelihood   |gradient|")
for name, p in [("the maximum", top), ("the maximum, rounded", rounded), ("the book", book)]:
    values = [*p.components.mean[:, 0], *p.components.cov[:, 0, 0], p.weights[1]]
    numbers = "".join(f"{float(v):9.5f}" for v in values)
    print(f"{name:23s}{numbers}{float(log_lik_of(p)):17.6f}{gradient_norm(p):13.6f}")

onwards = jaxem.fit(model, x, book, tol=1e-13)
print(f"\nEM from the book's values: {onwards.n_steps} more steps, to {onwards.log_lik:.6f}")
assert abs(best.log_lik + 38.913372) < 1e-6
assert abs(log_lik_of(book) + 38.92360) < 1e-5

# %% [markdown]
# Rounding costs 0.0002 nats, the book's values 0.0102: they are near the maximum, and not it. They look like a run
# that was stopped on the way: in section 2, step 20 of ours has almost the same numbers, and the book's table of
# iterations ends at 20. A hundredth of a nat does not matter in practice. It matters for testing an implementation:
# the number to compare with is $\ell(\hat\theta) = -38.913372$.

# %% [markdown]
# ## 4. The bound under the log-likelihood
#
# Why should averaging with the *old* responsibilities improve the *new* log-likelihood? Take any guess $q_i$ at the
# distribution of the label of $y_i$, write $p(y_i, z \mid \theta)$ for the joint density of number and label, and
# multiply and divide:
#
# $$
# \ell(\theta) = \sum_i \log \sum_z q_i(z)\,\frac{p(y_i, z \mid \theta)}{q_i(z)}
# \;\ge\; \sum_i \sum_z q_i(z) \log \frac{p(y_i, z \mid \theta)}{q_i(z)} \;=:\; F(q, \theta),
# $$
#
# because the logarithm of a mean is at least the mean of the logarithms (Jensen). $F$ is the *evidence lower bound*,
# ELBO. What the inequality loses can be named (Bishop 9.70-9.72): since
# $p(y_i, z \mid \theta) = p(z \mid y_i, \theta)\, p(y_i \mid \theta)$,
#
# $$
# \ell(\theta) \;=\; \underbrace{F(q, \theta)}_{\text{ELBO}} \;+\;
# \underbrace{\sum_i \mathrm{KL}\big(q_i \,\|\, p(z \mid y_i, \theta)\big)}_{\ge\, 0},
# \qquad
# F(q, \theta) \;=\; \underbrace{\sum_i \mathrm{E}_{q_i} \log p(y_i, z \mid \theta)}_{Q(\theta)} \;+\;
# \underbrace{\sum_i H(q_i)}_{\text{entropy}} .
# $$
#
# This is an identity, for *any* $q$. Four of them, at the same parameters:

# %%
start = to_params(*path[0])
nearest = np.abs(y - 1.80) < np.abs(y - 0.12)
guesses = {
    "evenly split": np.full((20, 2), 0.5),
    "random": np.random.default_rng(0).dirichlet([1, 1], 20),
    "all or nothing, by the nearer mean": np.stack([nearest, ~nearest], 1).astype(float),
    "the posterior (E-step)": model.e_step(start, x).resp,
}
print("q                                          Q + entropy =      ELBO +       KL = log-likelihood")
for name, q in guesses.items():
    big_q, bound, gap = (f(model, start, q, x) for f in (jaxem.q_function, jaxem.elbo, jaxem.kl_gap))
    print(f"{name:36s}{big_q:10.4f}{bound - big_q:10.4f}{bound:12.4f}{gap:9.4f}{bound + gap:17.10f}")
    assert abs(bound + gap - log_lik_of(start)) < 1e-10

# %% [markdown]
# The gap closes for one $q$ only, the posterior: that is the E-step. Now the M-step. To see it in a picture, let all
# but one parameter be known: $\mu_1$ is unknown, the other four are held at the maximum. The E-step at the current
# $\mu_1$ gives a bound that touches the log-likelihood there; the M-step goes to the top of the bound; a new bound
# touches at the new point.


# %%
def at(mu):
    """All at the maximum, except mu1."""
    mean = top.components.mean.at[0, 0].set(mu)
    return top._replace(components=top.components._replace(mean=mean))


def next_mu(mu):
    resp = model.e_step(at(mu), x).resp[:, 0]
    return (resp * y).sum() / resp.sum()  # the top of the bound: HTF's formula for mu1


mu_grid = jnp.linspace(1.2, 7.2, 200)
curve = jax.vmap(lambda mu: log_lik_of(at(mu)))(mu_grid)
fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.plot(mu_grid, curve, color="k", lw=2.5, label=r"log-likelihood $\ell(\mu_1)$")
mu = 2.0
for step, colour in enumerate(("tab:red", "tab:green", "tab:purple")):
    resp = model.e_step(at(mu), x).resp
    bound = jax.vmap(lambda m, resp=resp: jaxem.elbo(model, at(m), resp, x))(mu_grid)
    new = next_mu(mu)
    ax.plot(mu_grid, bound, color=colour, lw=1.3, label=f"bound after E-step {step}")
    peak = jaxem.elbo(model, at(new), resp, x)
    ax.plot([mu], [log_lik_of(at(mu))], "o", color=colour, ms=7)
    ax.plot([new, new], [peak, log_lik_of(at(new))], ":", color=colour)
    ax.plot([new], [peak], "^", color=colour, ms=7)
    print(f"mu1 = {mu:.4f} -> {new:.4f}    log-likelihood {log_lik_of(at(mu)):.4f} -> {log_lik_of(at(new)):.4f}")
    mu = new
ax.set(xlabel=r"$\mu_1$ (the other four parameters known)", ylabel="nats", ylim=(-86, -36))
ax.legend(fontsize=9, loc="lower center")
plt.show()

# %% [markdown]
# Circles: a bound touches the log-likelihood, with the same slope (*Fisher's identity*: the gradients of $Q$ and
# $\ell$ agree at the current point). Triangles: the top of the bound, where the M-step goes; dotted: the gap, which
# the next E-step turns into gain. There is no step size to choose. The bound curves more than the log-likelihood
# does, so its top falls short: EM steps are safe and can be small. Near the maximum the error shrinks by a constant
# factor per step, one minus the ratio of the two curvatures (Dempster, Laird and Rubin, 1977), which is the share of
# the information that the missing labels take away:

# %%
resp_top = model.e_step(top, x).resp
curvature = jax.grad(jax.grad(lambda mu: log_lik_of(at(mu))))(top.components.mean[0, 0])
bound_curvature = jax.grad(jax.grad(lambda mu: jaxem.elbo(model, at(mu), resp_top, x)))(top.components.mean[0, 0])
mu_hat = top.components.mean[0, 0]
rate = jax.grad(next_mu)(mu_hat)  # how much of an error in mu1 is left after one step
print(f"second derivative: log-likelihood {curvature:.3f}, bound {bound_curvature:.3f}")
print(f"one minus their ratio {1 - curvature / bound_curvature:.5f}, the derivative of the EM step {rate:.5f}")

# %% [markdown]
# With all five parameters unknown the picture is the same in six dimensions. Below are cuts through it along $\mu_1$,
# at the parameters of four steps of the run in section 2. $Q$ is the bound without the entropy of $q$: the same
# shape, lower by a constant, so both have their tops (triangles) at the next $\mu_1$. (The other four move as well;
# for these models the best $\mu_1$ does not depend on them.)

# %%
fig, axes = plt.subplots(1, 4, figsize=(12, 2.7), layout="constrained")
cut = jnp.linspace(1.2, 6.8, 120)
for ax, step in zip(axes, (0, 1, 8, 12), strict=True):
    here = to_params(*path[step])
    resp = model.e_step(here, x).resp

    def along(mu, here=here):
        return here._replace(components=here.components._replace(mean=here.components.mean.at[0, 0].set(mu)))

    ax.plot(cut, jax.vmap(lambda m, f=along: log_lik_of(f(m)))(cut), "k", lw=2.2, label=r"$\ell$")
    bound = jax.vmap(lambda m, f=along, r=resp: jaxem.elbo(model, f(m), r, x))(cut)
    ax.plot(cut, bound, color="tab:green", label="bound")
    big_q = jax.vmap(lambda m, f=along, r=resp: jaxem.q_function(model, f(m), r, x))(cut)
    ax.plot(cut, big_q, "--", color="tab:purple", label="$Q$")
    now, then = float(path[step][0]), float(path[step + 1][0])
    ax.plot(now, log_lik_of(here), "o", color="tab:green", ms=7)
    for f in (jaxem.q_function, jaxem.elbo):
        ax.plot(then, f(model, along(then), resp, x), "^", color="k", ms=5)
    ax.set(title=f"step {step}: {now:.2f} to {then:.2f}", xlabel=r"$\mu_1$", ylim=(-66, -32))
    ax.title.set_fontsize(10)
axes[0].legend(fontsize=8, loc="upper right", ncols=3, columnspacing=0.8)
axes[0].set_ylabel("nats")
plt.show()

# %% [markdown]
# ## 5. Why it never falls
#
# One EM step, from $\theta$ to $\theta'$, with $q$ the posterior at $\theta$:
#
# $$
# \ell(\theta') - \ell(\theta) =
# \underbrace{F(q, \theta') - F(q, \theta)}_{\ge 0:\ \theta' \text{ maximises } F(q, \cdot)} +
# \underbrace{\mathrm{KL}(q \,\|\, \text{posterior at } \theta')}_{\ge 0} -
# \underbrace{\mathrm{KL}(q \,\|\, \text{posterior at } \theta)}_{=\,0} .
# $$
#
# Both terms, at every step:

# %%
print("step      log-likelihood     gain =   M-step +       KL")
for step in (0, 1, 2, 5, 10, 20, 40):
    old, new = to_params(*path[step]), to_params(*path[step + 1])
    q = model.e_step(old, x).resp
    climbed = jaxem.elbo(model, new, q, x) - jaxem.elbo(model, old, q, x)
    gap = jaxem.kl_gap(model, new, q, x)
    gain = log_lik_of(new) - log_lik_of(old)
    print(f"{step:4d}{log_lik_of(old):20.6f}{gain:9.5f}{climbed:11.5f}{gap:9.5f}")
    assert abs(gain - climbed - gap) < 1e-10
    assert min(climbed, gap) > -1e-12

# %% [markdown]
# The library leans on this law: a step that lowers the objective by more than rounding explains is undone and the fit
# ends with status `DECREASED`, because then an E-step and an M-step do not belong together.

# %% [markdown]
# ## 6. One function, climbed in turns
#
# Seen from $F$, the two steps are equals (Neal and Hinton, 1998):
#
# * the **E-step** maximises $F(q, \theta)$ over $q$ with $\theta$ held;
# * the **M-step** maximises $F(q, \theta)$ over $\theta$ with $q$ held.
#
# EM is coordinate ascent on one function of two arguments, and it explains variants at a glance: any improvement in
# either argument will do (generalised EM, incremental EM), and a restricted family of $q$ gives variational EM.
#
# $q$ lives in 20 dimensions, but the E-step only ever visits posteriors. With $\mu_1$ alone unknown these form a
# curve, labelled by the $\mu_1$ they are the posterior of: call it $a$. That makes $F$ a landscape over a plane.


# %%
def bound_at(a, mu):
    return jaxem.elbo(model, at(mu), model.e_step(at(a), x).resp, x)


axis = jnp.linspace(-0.6, 6.6, 90)
landscape = jax.jit(jax.vmap(jax.vmap(bound_at, (None, 0)), (0, None)))(axis, axis)  # rows: a, columns: mu
points, heights = [(1.5, 0.0)], []
for _ in range(6):
    a, mu = points[-1]
    points += [(mu, mu), (mu, float(next_mu(mu)))]
heights = [float(bound_at(a, mu)) for a, mu in points]
ridge = [float(next_mu(a)) for a in axis]

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), width_ratios=(1.2, 1), layout="constrained")
left.contourf(axis, axis, np.log10(best.log_lik - landscape + 0.3), levels=18, cmap="Blues_r")
left.plot(axis, axis, color="tab:green", lw=1.6, label="best $q$ for each $\\mu_1$ (E-step)")
left.plot(ridge, axis, color="tab:red", lw=1.6, label="best $\\mu_1$ for each $q$ (M-step)")
left.plot([mu for _, mu in points], [a for a, _ in points], "k.-", lw=1.4, ms=8)
left.set(xlabel=r"$\mu_1$", ylabel=r"$a$:  $q$ is the posterior at $\mu_1 = a$", xlim=(-0.6, 6.6), ylim=(-0.6, 6.6))
left.set_title(r"$F(q, \mu_1)$: up and down E-steps, left and right M-steps", fontsize=10)
left.legend(fontsize=8, loc="upper left", frameon=True)
right.plot(np.arange(len(heights)) / 2, heights, color=GREY, lw=1, zorder=0)
right.scatter(np.arange(1, len(heights), 2) / 2, heights[1::2], color="tab:green", label="after an E-step: $F = \\ell$")
right.scatter(np.arange(2, len(heights), 2) / 2, heights[2::2], color="tab:red", label="after an M-step")
right.scatter([0], heights[:1], color="k", label="start")
right.axhline(float(best.log_lik), color="k", lw=0.8, ls=":")
right.set(xlabel="steps", ylabel="$F$ (nats)", title="the same path: every half-step goes up")
right.title.set_fontsize(10)
right.legend(fontsize=9)
plt.show()
assert all(np.diff(heights) >= 0)

# %% [markdown]
# ## 7. Label switching, local maxima, and no maximum
#
# Nothing in the model says which group is the first: swapping the two leaves the likelihood as it is. Let only the
# two means be unknown. On the left $\pi = 1/2$ and both variances are equal, so the map is symmetric and has two
# equal peaks: *label switching*, one answer under two names. On the right the variances and $\pi$ are those of the
# maximum: now the names are taken, and the swapped peak is a *local maximum*, a little lower. EM climbs whichever
# hill it stands on.

# %%
equal = to_params(0.0, 0.815, 0.0, 0.815, 0.5)


def with_means(base, mu):
    return base._replace(components=base.components._replace(mean=mu[:, None]))


@jax.jit
def means_path(base, mu):
    """EM for the two means alone."""

    def step(mu, _):
        resp = model.e_step(with_means(base, mu), x).resp
        return resp.T @ y / resp.sum(0), mu

    return jax.lax.scan(step, mu, None, length=200)[1]


def surface(base, axis):
    point = jax.vmap(lambda m1, m2: log_lik_of(with_means(base, jnp.stack([m1, m2]))), (0, None))
    return jax.jit(jax.vmap(point, (None, 0)))(axis, axis)


axis = jnp.linspace(-1, 7, 90)
begins = [(-0.5, 0.3), (6.5, 5.8), (0.4, 6.6), (5.9, 0), (3.6, 3.0), (2.4, 2.8), (6.4, 3.4), (1.5, -0.6), (0.6, 0.6)]
fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.8), layout="constrained")
maps = {"equal variances and weights": equal, "variances and weights of the maximum": top}
for ax, (title, base) in zip(axes, maps.items(), strict=True):
    z = surface(base, axis)
    ax.contourf(axis, axis, np.log10(z.max() - z + 0.3), levels=16, cmap="Greys_r", vmax=2.6)
    ends = {}
    for begin in begins:
        steps = np.asarray(means_path(base, jnp.array(begin)))
        peak = float(log_lik_of(with_means(base, steps[-1])))
        ends.setdefault(round(peak, 3), []).append(steps[-1])
        where = "tab:red" if abs(steps[-1][0] - steps[-1][1]) < 0.1 else BLUE if steps[-1][0] > 2.7 else ORANGE
        ax.plot(*steps.T, ".-", color=where, lw=1.3, ms=4)
        ax.plot(*begin, "o", mfc="white", mec=where, ms=6)
    for peak, where in ends.items():
        for m1, m2 in {tuple(np.round(w, 2)) for w in where}:
            ax.plot(m1, m2, "k*", ms=11)
            box = {"fc": "white", "ec": "none", "pad": 1.5, "alpha": 0.85}
            ax.annotate(f"{peak:.3f}", (m1, m2), (9, -15), textcoords="offset points", fontsize=9, bbox=box, zorder=5)
    ax.set(xlabel=r"$\mu_1$", ylabel=r"$\mu_2$", aspect="equal")
    ax.set_title(title, fontsize=10)
plt.show()

# %% [markdown]
# White dots: starts; stars: where EM comes to rest, with the log-likelihood. On the left a start *on* the diagonal
# (red) stays there: two equal components share every number alike for ever. Their resting point is a saddle: with all
# five parameters free it is the fit of a single normal to all numbers, at log-likelihood $-42.161$. Any asymmetry
# leads away from it, slowly at first. That is why starts are random, and why one start is not enough.
#
# With three components the full problem has several true maxima. `optima` groups the restarts by where they ended:

# %%
three, every_three = jaxem.fit_restarts(jaxem.gaussian_mixture(3), x, jax.random.key(0), n_restarts=64)
for group in jaxem.optima(every_three):
    print(f"{group.n_restarts:3d} of 64 at {group.objective:9.4f}  {group.statuses}")
print(f"\nchosen: {three.log_lik:.4f}, {three.message}")

# %% [markdown]
# The highest are marked `DEGENERATE` and do not win. They are not better answers, they are places where the
# likelihood has *no* maximum: put a component on one number and let its variance go to zero (HTF mention it at the
# end of section 8.5.1). Its density there grows without limit, and the others are taken care of by the rest of the
# mixture.

# %%
print("sd of the first group     log-likelihood")
for sd in (1.0, 0.1, 1e-2, 1e-4, 1e-6, 1e-8):
    print(f"{sd:21.0e}{log_lik_of(to_params(4.28, sd**2, y.mean(), y.var(), 0.95)):19.3f}")
collapsed = jaxem.fit(model, x, to_params(4.28, 1e-4, y.mean(), y.var(), 0.95))
print(f"\nEM from the third line: log-likelihood {collapsed.log_lik:.2f}\n{collapsed.message}")

# %% [markdown]
# What one wants is a good *proper* maximum, and the honest name for a fit that is none is its status.

# %% [markdown]
# ## 8. k-means is the hard limit
#
# Fix $\pi = 1/2$ and one common variance $\sigma^2$, so that only the means are unknown. The responsibility is then a
# logistic curve in $y$, and it steepens as $\sigma$ shrinks: in the limit each number belongs wholly to the nearest
# mean. The M-step then averages the numbers nearest to each mean: EM has become k-means (Bishop, section 9.3.2), and
# $\sigma^2 F$ tends to minus half the sum of squared distances that k-means minimises.


# %%
def lloyd(mu, n_steps=50):
    for _ in range(n_steps):
        first = np.abs(y - mu[0]) < np.abs(y - mu[1])
        mu = np.array([y[first].mean(), y[~first].mean()])
    return mu, sum(min((v - m) ** 2 for m in mu) for v in y)


centres, distance = lloyd(np.array([3.72, 1.76]))
print("sigma      mu1      mu2    -2 sigma^2 (F - constant)")
fig, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
for sigma, colour in zip((2.5, 1.0, 0.5, 0.2, 0.05), plt.cm.viridis(np.linspace(0.85, 0, 5)), strict=True):
    base = to_params(0.0, sigma**2, 0.0, sigma**2, 0.5)
    mu = means_path(base, jnp.array([3.72, 1.76]))[-1]
    # The bound without its normalising constant, log(1/2) and log(sigma sqrt(2 pi)) per number.
    free_energy = log_lik_of(with_means(base, mu)) + 20 * np.log(2 * sigma * np.sqrt(2 * np.pi))
    print(f"{sigma:5.2f}{mu[0]:9.5f}{mu[1]:9.5f}{-2 * sigma**2 * free_energy:16.4f}")
    resp = model.e_step(with_means(base, mu), grid[:, None]).resp
    ax.plot(grid, resp[:, 0], color=colour, label=rf"$\sigma$ = {sigma}")
print(f"k-means{centres[0]:7.5f}{centres[1]:9.5f}{distance:16.4f}")
ax.plot(y, np.where(np.abs(y - centres[0]) < np.abs(y - centres[1]), 1.0, 0.0), "ko", ms=4, label="k-means")
ax.set(xlabel="y", ylabel="responsibility of the first group")
ax.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# (With $\sigma = 2.5$ the groups merge: a group broader than the data sees only one of them.)
#
# So k-means is EM with every group a ball of the same size and every doubt rounded away. A mixture keeps the doubt,
# and learns the sizes. (`jaxem.kmeans(k)` is this limit as a model, and `jaxem.Hard(model)` rounds the doubt of any
# other.)

# %% [markdown]
# ## 9. Known labels: a classifier in one M-step
#
# The other thought experiment. If the labels *are* known, the responsibilities are 0 and 1, there is nothing to
# expect, and one M-step is the maximum-likelihood fit in closed form: the group means, the group variances, the
# shares. The E-step then classifies new numbers by Bayes' rule. (With a covariance for each group this is quadratic
# discriminant analysis; with a tied one, linear.)
#
# Draw 400 labelled numbers from the fitted mixture, fit with and without the labels, and classify 20,000 new ones.

# %%
train_key, test_key = jax.random.split(jax.random.key(1))
labels, rows = model.sample_joint(top, train_key, 400)
new_labels, new_rows = model.sample_joint(top, test_key, 20_000)

supervised = model.m_step(jax.nn.one_hot(labels, 2), rows)
np.testing.assert_allclose(supervised.components.mean[:, 0], [rows[labels == k].mean() for k in (0, 1)])
np.testing.assert_allclose(supervised.components.cov[:, 0, 0], [rows[labels == k].var() for k in (0, 1)])
np.testing.assert_allclose(supervised.weights, [(labels == k).mean() for k in (0, 1)])

mean, var = rows[:2, 0], rows.var()  # the book's rule for a start
unsupervised = jaxem.fit(model, rows, to_params(mean[0], var, mean[1], var, 0.5)).params
unsupervised = model.permute(unsupervised, jnp.argsort(-unsupervised.components.mean[:, 0]))
print("                              mu1    mu2   accuracy on new numbers")
for name, p in [("labels known: one M-step", supervised), ("labels unknown: EM", unsupervised), ("the truth", top)]:
    accuracy = (model.predict(p, new_rows) == new_labels).mean()
    print(f"{name:26s}{p.components.mean[0, 0]:7.3f}{p.components.mean[1, 0]:7.3f}{accuracy:10.4f}")

# %% [markdown]
# Two groups as clear as these need no labels to be found. What EM cannot know is their *names*: which column is which
# had to be told it, by the order of the means.

# %% [markdown]
# ## 10. EM against direct gradient ascent
#
# EM never computes a gradient, yet a gradient is one line of JAX. So why not hand $-\ell$ to an optimiser?
# `jaxem.Gradient` does so: it takes any optax transformation and climbs the same objective in unconstrained
# coordinates (logits of the weights, Cholesky factors with log diagonals), in the same loop, with the same result.
# `compare_algorithms` runs several from the same starts and looks at them on the way. Thirty-two starts by the book's
# rule, the same for everybody; a fit counts as *there* when it is within 0.001 nats of the maximum. ("Adam 0.1" is
# Adam with a rate of 0.1; "seconds" is the time by which half of the 32, run side by side, are there.)

# %%
rng = np.random.default_rng(0)
pairs = np.stack([rng.choice(y, 2, replace=False) for _ in range(32)])
variances = np.full((32, 2, 1, 1), y.var())
starts = jaxem.MixtureParams(np.full((32, 2), 0.5), jaxem.GaussianParams(pairs[:, :, None], variances))
algorithms = {
    "EM": jaxem.EM(),
    "L-BFGS": jaxem.Gradient(optax.lbfgs()),
    "Adam 0.1": jaxem.Gradient(optax.adam(0.1)),
    "Adam 0.01": jaxem.Gradient(optax.adam(0.01)),
}
compared = jaxem.compare_algorithms(model, x, starts, algorithms, max_steps=2000)
print(compared.table(within=1e-3))

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
jaxem.plot.comparison(compared, ax=left)
jaxem.plot.comparison(compared, against="seconds", ax=right)
plt.show()

# %% [markdown]
# How to read it:
#
# * **EM** needs no step size, never goes down, and keeps the parameters valid by construction. The slowest starts are
#   pairs of nearly equal numbers: they wait on the plateau beside the saddle of section 7, where two equal groups fit
#   as well as one. So does every other method.
# * **L-BFGS** learns the curvature, and near the maximum it ends faster than EM's constant factor per step. But each
#   of its evaluations also takes a gradient, about two to three times the work of an E-step, and its line search
#   takes several evaluations a step.
# * **Adam** takes the most passes, and how many depends on its rate, which somebody has to choose.
# * On twenty numbers the seconds mostly measure the loop's overheads, and they differ between machines. The
#   evaluations do not.
#
# EM is the default for a reason, and the gradient is at hand where it is better:
# `algorithm=jaxem.Gradient(optax.lbfgs())`.
#
# ## Summary
#
# | step | maximises $F(q, \theta)$ over | in code |
# | --- | --- | --- |
# | E | $q$: the posterior, Bayes' rule | `resp, log_prob = model.e_step(params, x)` |
# | M | $\theta$: weighted maximum likelihood | `params = model.m_step(resp, x)` |
#
# $\ell = F + \mathrm{KL}$, so each pair of steps raises $\ell$; which hill it climbs depends on the start;
# `fit_restarts` tries many and says where each one ended.
