r"""Small tokenizers of the families that matter for the boundary rule, trained here so that the tests need no download.

Besides, figures that tests measured (`record_property`) are printed at the end of a run.
"""

import shutil
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# `{` is followed by each of these so often that the two become one token.
MERGES_WITH_BRACE = '\\-($"['

CORPUS = [rf"the answer is \boxed{{{first}5}} or {{{first}x" for first in MERGES_WITH_BRACE] * 60 + [
    r"so \boxed{12} and $\boxed{7}$ \boxed{7}. \frac{1}{2}} = 0.5, (1,2)} }} 3 + 4 = 7",
    "words and letters: a b c, naïve 中文 ∑ – 🙂",
] * 10

QWEN_SPLIT = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(pre_tokenizer: pre_tokenizers.PreTokenizer, vocab_size: int = 420) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", "<eos>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def gpt2_style() -> PreTrainedTokenizerFast:
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))


def qwen_style() -> PreTrainedTokenizerFast:
    """Every digit is a token; Unicode is normalised (NFC)."""
    split = pre_tokenizers.Split(QWEN_SPLIT, behavior="isolated")
    tokenizer = byte_level(
        pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    )
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def prefix_space_style() -> PreTrainedTokenizerFast:
    """A byte-level BPE that puts a space in front of every text."""
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))


def llama2_style() -> PreTrainedTokenizerFast:
    """SentencePiece-like: a space is put in front of every text, spaces are part of tokens, unknown characters are bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_256 = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=["<unk>", "<s>", "</s>", *bytes_256], show_progress=False
    )
    # Words are the unit of training only, so that tokens stay short enough for several to make up a box.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.pre_tokenizer = None
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@pytest.fixture(scope="session")
def t5_style() -> PreTrainedTokenizerFast:
    """SentencePiece as T5 has it: white space is evened out, and what is in no piece, such as braces, is unknown."""
    characters = [*string.ascii_letters, *string.digits, *".,:;?!'()-+=/%$&"]
    words = ["▁The", "▁answer", "▁is", "▁question", "▁yes", "▁no", "ing"]
    pieces = (
        [(piece, -2.0) for piece in words] + [(f"▁{c}", -6.0) for c in characters] + [(c, -5.0) for c in characters]
    )
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = Tokenizer(models.Unigram([*special, ("▁", -5.0), *pieces], unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    return {
        "gpt2": gpt2_style(),
        "qwen": qwen_style(),
        "prefix_space": prefix_space_style(),
        "llama2": llama2_style(),
    }


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fault_shim.c, built: a library that, preloaded, stands between a process and the disk."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("failing single system calls needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("shim") / "fault_shim.so"
    source = Path(__file__).with_name("fault_shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    lines = {f"{name}: {value}" for report in reports for name, value in getattr(report, "user_properties", ())}
    if lines:
        terminalreporter.section("measured")
        for line in sorted(lines):
            terminalreporter.write_line(line)
