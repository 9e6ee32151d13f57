"""Measures of an arm as a whole, shared out over its replies, so that arms can be compared post by post like any others.

Each reply gets a part such that the mean over the arm is the arm's figure, and such that the parts vary as the figure
does from one draw of posts to another: an interval of their mean is then one of the figure. Parts reach beyond the range
of the figure itself.
"""

import numpy as np
import polars as pl

from llumi.evaluate.statistics import FloatArray

PROFILES = ("embedding", "style", "post_style")
"""What a reply must bring besides its own figures: its sentence embedding, and the profiles of the reply and its post."""


def measure_arms(replies: pl.DataFrame) -> pl.DataFrame:
    """Add `accommodation` and `diversity` to the replies of all arms, and take `PROFILES` away.

    `replies` holds role, arm and `PROFILES`; the result is in the order of role and arm, and null where a reply takes no
    part. Rounded to six places.
    """
    arms = replies.sort("role", "arm", maintain_order=True).partition_by("role", "arm", maintain_order=True)
    return pl.concat([_measure_arm(arm) for arm in arms]).drop(PROFILES)


def _measure_arm(arm: pl.DataFrame) -> pl.DataFrame:
    embeddings, style, post_style = (arm[column].to_numpy().astype(np.float64) for column in PROFILES)
    figures = {"accommodation": accommodation(style, post_style), "diversity": diversity(embeddings)}
    return arm.with_columns(pl.Series(name, parts.round(6)).fill_nan(None) for name, parts in figures.items())


def diversity(embeddings: FloatArray) -> FloatArray:
    """How far the replies of an arm lie from one another: mean cosine distance over all pairs, 0 to 2; shape (replies,).

    `embeddings` are unit vectors, a row for each reply, NaN for one without text. Of n replies with the vectors' sum s,
    reply i lies d_i = 1 - (u_i s - 1) / (n - 1) from the others in the mean, without a look at any pair, and the mean of
    d is the figure D. A part is its jackknife pseudo-value n D - (n - 1) D_without_i = (2 (n - 1) d_i - n D) / (n - 2)
    (Arvesen 1969, Jackknifing U-statistics, Annals of Mathematical Statistics 40(6)): d itself would make intervals half
    as wide as they are, since each distance is counted for both of its replies. NaN below three replies.
    """
    parts = np.full(len(embeddings), np.nan)
    present = np.isfinite(embeddings).all(axis=1)
    units = embeddings[present]
    num = len(units)
    if num < 3:
        return parts
    distances = 1 - (units @ units.sum(axis=0) - (units**2).sum(axis=1)) / (num - 1)
    parts[present] = (2 * (num - 1) * distances - num * distances.mean()) / (num - 2)
    return parts


def accommodation(style: FloatArray, post_style: FloatArray) -> FloatArray:
    """How much likelier a reply uses a class of function words because its post does, -1 to 1; shape (replies,).

    P(reply uses it | post uses it) - P(reply uses it), in the mean over the classes (Danescu-Niculescu-Mizil, Gamon and
    Dumais 2011, Mark my words! Linguistic style accommodation in social media, WWW, section 3). The arguments are profiles
    of replies and posts, a row for each reply, NaN for a text without words. With x and y for what posts and replies use,
    a reply's part is (x_i / mean x - 1) (y_i - P(y | x)), the figure's linear approximation (its influence function).
    Classes that all posts use, or none, tell nothing and are left out; NaN where that leaves none.
    """
    parts = np.full(len(style), np.nan)
    present = np.isfinite(style).all(axis=1) & np.isfinite(post_style).all(axis=1)
    posts, replies = post_style[present] > 0, style[present] > 0
    telling = posts.any(axis=0) & ~posts.all(axis=0)
    if telling.any():
        posts, replies = posts[:, telling], replies[:, telling]
        share_of_posts = posts.mean(axis=0)
        given_post = (posts & replies).mean(axis=0) / share_of_posts
        parts[present] = ((posts / share_of_posts - 1) * (replies - given_post)).mean(axis=1)
    return parts
