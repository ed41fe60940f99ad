"""The model of a finished run as a folder that `load_policy` reads, whatever engine trained it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ..distributed import ranks
from ..distributed.gathered import gathered
from ..models.adapters import export_adapter, load_trained_weights, merge_and_export, trained_weights
from ..models.quantization import is_quantized
from .best import BestWeights


def export_trained(
    wrapped: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    best: BestWeights | None,
    rebuild: Callable[[], Any],
) -> PreTrainedModel | PeftModel | None:
    """Writes the trained model and returns it. Rank 0 writes; the others get None.

    Adapters are merged into the weights; on quantized weights the adapter is written alone.

    Args:
        wrapped: the model as the trainer wrapped it. Merged adapters are gone afterwards.
        folder: of the run's model; what an earlier part of the run wrote there, before it was killed, gives way.
        best: export these weights in the place of the last ones.
        rebuild: a new model as it was before training. Under ZeRO-3 the trained weights are put into it, since the
            sharded one can be neither merged nor changed.
    """
    sharded = is_deepspeed_zero3_enabled()
    with gathered(wrapped) as model:
        weights = trained_weights(model) if sharded and best is None and ranks.is_main() else None
    unset_hf_deepspeed_config()  # what is loaded from here on is not sharded

    def write() -> PreTrainedModel | PeftModel:
        whole: Any = rebuild() if sharded else model
        if best is not None:
            load_trained_weights(whole, best.load())
        elif weights is not None:
            load_trained_weights(whole, weights)
        shutil.rmtree(folder, ignore_errors=True)
        export = export_adapter if isinstance(whole, PeftModel) and is_quantized(whole) else merge_and_export
        return export(whole, tokenizer, folder)

    return ranks.on_main(write, "export the model")
