"""The model of a finished run as an ordinary Hugging Face folder, whatever engine trained it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ..distributed import ranks
from ..distributed.gathered import gathered
from ..models.adapters import load_trained_weights, merge_and_export, trained_weights
from .best import BestWeights


def export_trained(
    wrapped: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    best: BestWeights | None,
    rebuild: Callable[[], Any],
) -> PreTrainedModel | None:
    """Writes the trained model, adapters merged, and returns it. Rank 0 writes; the others get None.

    Args:
        wrapped: the model as the trainer wrapped it. Its adapters are gone afterwards.
        folder: of the run's model; what an earlier part of the run wrote there, before it was killed, gives way.
        best: export these weights in the place of the last ones.
        rebuild: a new model as it was before training. Under ZeRO-3 the trained weights are put into it, since the
            sharded one can be neither merged nor changed.
    """
    sharded = is_deepspeed_zero3_enabled()
    with gathered(wrapped) as model:
        weights = trained_weights(model) if sharded and best is None and ranks.is_main() else None
    unset_hf_deepspeed_config()  # what is loaded from here on is not sharded

    def write() -> PreTrainedModel:
        whole: Any = rebuild() if sharded else model
        if best is not None:
            load_trained_weights(whole, best.load())
        elif weights is not None:
            load_trained_weights(whole, weights)
        shutil.rmtree(folder, ignore_errors=True)
        return merge_and_export(whole, tokenizer, folder)

    return ranks.on_main(write, "export the model")
