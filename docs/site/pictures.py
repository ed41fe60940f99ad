"""The pictures of the methods' pages: python docs/site/pictures.py writes docs/pictures/*.svg."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

FOLDER = Path(__file__).parents[1] / "pictures"
BLUE, ORANGE, GREY, GREEN = "#2563ba", "#c2571a", "#8a8f98", "#22805c"
plt.rcParams.update({"svg.hashsalt": "thinker", "svg.fonttype": "none", "font.size": 10})


def box(axes, x, y, text, colour, width=1.0, height=0.5):
    axes.add_patch(plt.Rectangle((x, y), width, height, facecolor=colour, alpha=0.16, edgecolor=colour, linewidth=1.2))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def arrow(axes, start, end, colour=GREY, bend=0.0):
    style = {"arrowstyle": "->", "color": colour, "connectionstyle": f"arc3,rad={bend}"}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def canvas(width, height, right, top):
    figure, axes = plt.subplots(figsize=(width, height))
    axes.set_xlim(-0.1, right)
    axes.set_ylim(-0.1, top)
    axes.axis("off")
    return figure, axes


def save(figure, name):
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def generalthinker():
    """One response, read twice: its reward, and the credit of its tokens."""
    figure, axes = canvas(9, 3, 10, 3.1)
    box(axes, 0, 1.3, "question", GREY)
    for i, token in enumerate(["12", "+", "9", "=", "21", r"\boxed{"]):
        box(axes, 1.3 + i * 0.85, 1.3, token, BLUE, 0.75)
    box(axes, 6.6, 1.3, "reference answer", GREEN, 1.7)
    axes.text(8.5, 1.55, "reward: its log-likelihood", va="center", color=GREEN, fontsize=9)
    box(axes, 0, 2.4, "question + answer", GREEN, 1.9)
    axes.text(2.1, 2.65, "the policy that has seen the answer reads the same tokens", va="center", fontsize=9)
    for i, height in enumerate(0.25 * np.array([1.2, 0.4, 1.0, 0.5, 2.6, 0.6])):
        axes.add_patch(plt.Rectangle((1.3 + i * 0.85, 0.2), 0.75, height, color=ORANGE, alpha=0.7))
    axes.text(6.6, 0.4, "credit: how much likelier each token became, bounded", color=ORANGE, va="center", fontsize=9)
    arrow(axes, (3.6, 2.35), (3.6, 1.85))
    arrow(axes, (3.6, 1.25), (3.6, 0.95))
    save(figure, "generalthinker")


def spiralthinker():
    """Text and latent steps alternate; latents are read again K times and end where the text step ends."""
    figure, axes = canvas(9, 3, 10, 3.1)
    axes.text(0, 2.85, "explicit", fontsize=9, color=GREY)
    axes.text(0, 1.15, "implicit", fontsize=9, color=GREY)
    for row, latent in ((2.2, False), (0.5, True)):
        box(axes, 0, row, "question", GREY, 1.4)
        for i, step in enumerate(["step 1", "step 2", "step 3"]):
            hidden = latent and i % 2 == 0
            box(axes, 1.7 + i * 2.2, row, "latent x N" if hidden else step, ORANGE if hidden else BLUE, 1.9)
        box(axes, 8.3, row, "answer", GREEN, 1.2)
    for x in (1.7, 6.1):
        arrow(axes, (x + 1.5, 0.45), (x + 0.4, 0.45), ORANGE, -0.6)
        axes.text(x + 0.95, -0.05, "K times", ha="center", fontsize=8, color=ORANGE)
        arrow(axes, (x + 1.85, 1.05), (x + 1.85, 2.15), BLUE)
        axes.text(x + 1.7, 1.6, "align", ha="right", va="center", fontsize=8, color=BLUE)
    save(figure, "spiralthinker")


def tinythinker():
    """Recall, analyze, summarize; then preferences among the student's own chains."""
    figure, axes = canvas(9, 2.6, 10, 2.7)
    box(axes, 0, 1.5, "question", GREY, 1.4)
    for i, stage in enumerate(["recall\nknowledge", "analyze\neach option", "summarize\nthe answer"]):
        box(axes, 2.0 + i * 2.6, 1.4, stage, BLUE, 2.0, 0.7)
        arrow(axes, (2.0 + i * 2.6 - 0.55, 1.75), (2.0 + i * 2.6 - 0.05, 1.75))
    box(axes, 2.0, 0.1, "chains that end right are preferred to chains that end wrong", GREEN, 7.2, 0.5)
    arrow(axes, (8.2, 1.35), (8.2, 0.65), GREEN)
    arrow(axes, (3.0, 0.65), (3.0, 1.35), GREEN)
    save(figure, "tinythinker")


if __name__ == "__main__":
    generalthinker()
    spiralthinker()
    tinythinker()
