"""Generation: it computes what training computes, whatever the batch; its arguments; what is refused."""

import latent_models as lm
import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from spiralthinker.generation import LatentGenerator
from spiralthinker.model import LatentSettings
from thinker_common.errors import SettingsError, UserError

SCHEDULES = ["sequential", "simultaneous"]
NEAR_TIE = 1e-4  # nats between the two best tokens


class Scripted(LatentGenerator):
    """Writes given responses, and notes the log-probability of each token that it had to choose."""

    def __init__(self, model, scripts, **options):
        super().__init__(model, max_new_tokens=100, **options)
        self.scripts = scripts
        self.logprobs = [[] for _ in scripts]

    def choose(self, logits_BV, responses):
        tokens = [self.scripts[response.index][len(response.token_ids)] for response in responses]
        chosen = logits_BV.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)]
        for response, logprob in zip(responses, chosen.tolist(), strict=True):
            self.logprobs[response.index].append(logprob)
        return tokens


class Eager(LatentGenerator):
    """Likes latent steps now and then, which an untrained model does not; counts near-ties."""

    near_ties = 0

    def choose(self, logits_BV, responses):
        logits_BV = logits_BV.clone()
        for place, response in enumerate(responses):
            due = (len(response.prompt) + len(response.token_ids)) % 5 == 0
            logits_BV[place, self.model.markers.bol] += 50 if due else -50
        best = logits_BV.topk(2).values
        self.near_ties += int((best[:, 0] - best[:, 1] < NEAR_TIE).sum())
        return super().choose(logits_BV, responses)


def prompt_and_script(row):
    length = row["prompt_length"]
    return row["input_ids"][:length], row["input_ids"][length:]


def training_logprobs(model, some):
    """For each row, of the tokens that generation chooses: all behind the prompt but `<latent>` and `<eol>`."""
    batch = lm.batch(model, some)
    states = model(batch)[0].readings[-1]
    runtime = torch.tensor([model.markers.latent, model.markers.eol])
    for place, row in enumerate(lm.rows(model, some)):
        real = batch["mask"][place].bool()
        ids = batch["input_ids"][place][real]
        logprobs = model.head()(states[place][real])[:-1].log_softmax(-1)
        chosen = logprobs[torch.arange(len(ids) - 1), ids[1:]][row["prompt_length"] - 1 :]
        yield chosen[~torch.isin(ids[row["prompt_length"] :], runtime)].tolist()


@pytest.mark.parametrize("family", lm.FAMILIES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_decoding_computes_what_training_of_its_name_computes(family, schedule):
    """Rows with 2, 2, 1 and 0 latent steps and prompts of 2 to 7 tokens, decoded together."""
    model = lm.latent_model(family, schedule=schedule, iterations=3, latents=2)
    prompts, scripts = zip(*map(prompt_and_script, lm.rows(model)), strict=True)
    decoder = Scripted(model, scripts)
    responses = decoder.generate(prompts)
    for place, expected in enumerate(training_logprobs(model, lm.problems())):
        assert decoder.logprobs[place] == pytest.approx(expected, abs=1e-5)
        assert [*responses[place].token_ids, 1] == scripts[place]
    assert decoder.token_passes == sum(
        len(prompt) + len(script) - 1 + _iterated(row, schedule) for prompt, script, row in
        zip(prompts, scripts, lm.rows(model), strict=True)
    )  # fmt: skip


def _iterated(row, schedule, iterations=3, latents=2):
    """Token passes of a row beyond one for each of its tokens (the end is not read)."""
    if schedule == "sequential" or not row["bols"]:
        return iterations * len(row["bols"]) * (latents + 1)
    # On K + 1 levels, all that stands behind the first <bol>: it is on all of them too.
    return iterations * (len(row["input_ids"]) - 1 - row["bols"][0])


@pytest.mark.parametrize("shift", [0, 1])
def test_the_wrong_decoding_is_found(shift):
    """With two latent steps the decodings differ, so that the agreement above means something."""
    model = lm.latent_model(schedule="sequential", iterations=3, latents=2, shift=shift)
    prompts, scripts = zip(*map(prompt_and_script, lm.rows(model)), strict=True)
    runs = {decoding: Scripted(model, scripts, decoding=decoding) for decoding in SCHEDULES}
    for run in runs.values():
        run.generate(prompts)
    [expected, *_] = training_logprobs(model, lm.problems())
    assert runs["sequential"].logprobs[0] == pytest.approx(expected, abs=1e-5)
    assert runs["simultaneous"].logprobs[0] != pytest.approx(expected, abs=1e-3)
    assert runs["simultaneous"].logprobs[2] == pytest.approx(runs["sequential"].logprobs[2], abs=1e-5), "one step"


@pytest.mark.parametrize("decoding", SCHEDULES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_responses_do_not_depend_on_the_batch(decoding, temperature):
    model = lm.latent_model("gpt2", iterations=2, latents=2, dtype=torch.float64)
    torch.manual_seed(1)
    prompts = [torch.randint(3, 60, (length,)).tolist() for length in (3, 9, 5, 1, 7, 4)]
    options = {"max_new_tokens": 40, "decoding": decoding, "temperature": temperature, "seed": 3}
    together = Eager(model, **options)
    responses = together.generate(prompts)
    alone = Eager(model, **options, max_tokens_per_batch=1)
    assert alone.generate(prompts) == responses
    assert together.near_ties == alone.near_ties == 0
    assert together.token_passes == alone.token_passes
    steps = [response.token_ids.count(model.markers.eol) for response in responses]
    assert max(steps) >= 2, "latent steps were taken"
    assert len({response.token_ids for response in responses}) > 1
    for response in responses:
        assert response.token_ids.count(model.markers.latent) == 2 * response.token_ids.count(model.markers.eol)
        assert len(response.token_ids) <= 40


def test_samples_follow_from_seed_key_and_number():
    model = lm.latent_model()
    prompts = [[3, 4, 5], [6, 7]]
    make = lambda seed: LatentGenerator(model, max_new_tokens=12, temperature=1.0, seed=seed)  # noqa: E731
    first = make(1).sample(prompts, 3, keys=["a", "b"])
    assert make(1).sample(prompts[1:], 3, keys=["b"])[0] == first[1]
    assert make(2).sample(prompts, 3, keys=["a", "b"]) != first
    assert len({sample.token_ids for sample in first[0]}) > 1


def test_generate_as_a_transformers_user_expects_it():
    model = lm.latent_model(iterations=2, latents=2)
    left, left_mask = torch.tensor([[0, 0, 3, 4], [5, 6, 7, 8]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    right, right_mask = torch.tensor([[3, 4, 0, 0], [5, 6, 7, 8]]), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    from_left = model.generate(left, left_mask, max_new_tokens=20)
    from_right = model.generate(right, right_mask, max_new_tokens=20)
    assert torch.equal(from_left[:, :4], left)
    assert torch.equal(from_left[:, 4:], from_right[:, 4:]), "on whichever side the padding is"
    alone = model.generate(torch.tensor([[3, 4]]), max_new_tokens=20)[0, 2:]
    assert torch.equal(from_left[0, 4 : 4 + len(alone)], alone)
    sampled = model.generate(left, left_mask, max_new_tokens=8, do_sample=True, num_return_sequences=3, seed=4)
    assert len(sampled) == 6
    assert torch.equal(sampled[:3, :4], left[:1].expand(3, 4))
    assert not torch.equal(sampled[0], sampled[1])
    again = model.generate(left, left_mask, max_new_tokens=8, do_sample=True, num_return_sequences=3, seed=4)
    assert torch.equal(sampled, again)


IDS = torch.tensor([[3, 4, 5], [6, 7, 8]])


def test_lengths_and_ends_are_those_of_transformers():
    model = lm.latent_model(iterations=2, latents=2)
    longest = model.generate(IDS, max_new_tokens=9)
    assert torch.equal(model.generate(input_ids=IDS, max_length=12), longest), "prompts included"
    assert torch.equal(model.generate(IDS, generation_config=GenerationConfig(max_new_tokens=9)), longest)
    assert torch.equal(
        model.generate(IDS, generation_config=GenerationConfig(max_length=99), max_new_tokens=9), longest
    )
    first = longest[0, 3].item()
    ended = model.generate(IDS[:1], max_new_tokens=9, eos_token_id=[first, 1])
    assert ended.tolist() == [[3, 4, 5, first]], "with the token that ended it, not with the tokenizer's"
    later = model.generate(IDS[:1], max_new_tokens=9, min_new_tokens=4, eos_token_id=first)
    assert len(later[0]) >= 3 + 4
    assert first not in later[0, 3:7]
    assert torch.equal(model.generate(IDS[:1], max_new_tokens=9, min_length=7, eos_token_id=first), later)
    both = model.generate(IDS, max_new_tokens=9, eos_token_id=first, pad_token_id=2)
    assert both.shape[1] > 4
    assert set(both[0, 4:].tolist()) == {2}
    as_dict = model.generate(IDS, max_new_tokens=9, return_dict_in_generate=True)
    assert torch.equal(as_dict.sequences, longest)
    same = {"top_k": None, "num_beams": 1, "use_cache": True, "repetition_penalty": 1.0, "output_scores": False}
    assert torch.equal(model.generate(IDS, max_new_tokens=9, **same), longest)


def test_without_a_padding_token_the_end_pads():
    model = lm.latent_model(iterations=2, latents=2)
    first = model.generate(IDS, max_new_tokens=9)[0, 3].item()
    model.tokenizer.pad_token = None
    padded = model.generate(IDS, max_new_tokens=9, eos_token_id=first)
    assert set(padded[0, 3:].tolist()) == {first}


def test_padding_is_found_without_a_mask():
    model = lm.latent_model(iterations=2, latents=2)
    padded, mask = torch.tensor([[0, 0, 3, 4], [5, 6, 7, 8]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert torch.equal(model.generate(padded, max_new_tokens=9), model.generate(padded, mask, max_new_tokens=9))


class Forbid(LogitsProcessor):
    """Forbids a token, and notes the ids that it was shown."""

    def __init__(self, token):
        self.token = token
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen.append(input_ids[0].tolist())
        scores = scores.clone()
        scores[:, self.token] = -torch.inf
        return scores


class After(StoppingCriteria):
    def __init__(self, length):
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        return torch.tensor([input_ids.shape[1] >= self.length])


def test_processors_and_criteria_see_a_row_without_padding():
    model = lm.latent_model(iterations=2, latents=2)
    padded = torch.tensor([[0, 0, 3, 4], [5, 6, 7, 8]])
    plain = model.generate(padded, max_new_tokens=6)
    first = plain[0, 4].item()
    forbid = Forbid(first)
    other = model.generate(padded, max_new_tokens=6, logits_processor=[forbid])
    assert first not in other[0, 4:]
    assert [3, 4] in forbid.seen
    assert [5, 6, 7, 8] in forbid.seen
    assert torch.equal(model.generate(padded, max_new_tokens=6, suppress_tokens=[first]), other)
    stopped = model.generate(padded, max_new_tokens=6, stopping_criteria=[After(6)])
    assert torch.equal(stopped[0, :8], plain[0, :8])
    assert stopped[1].tolist() == [*plain[1, :6].tolist(), 0, 0]
    tokens = model.generate(IDS, max_new_tokens=12, repetition_penalty=1e9, suppress_tokens=list(model.markers))
    for row in tokens:
        assert len(set(row.tolist())) == len(row), "no token twice"


def test_the_arguments_of_sampling_do_what_they_say():
    model = lm.latent_model(iterations=2, latents=2)
    options = {"max_new_tokens": 10, "seed": 4}
    greedy = model.generate(IDS, **options)
    sampled = model.generate(IDS, **options, do_sample=True)
    assert not torch.equal(sampled, greedy)
    for same in ({"temperature": 1e-4}, {"top_p": 1e-6}, {"top_k": 1}):
        assert torch.equal(model.generate(IDS, **options, do_sample=True, **same), greedy), same
    hot = model.generate(IDS, **options, do_sample=True, temperature=50.0)
    assert not torch.equal(hot, sampled)
    two = [model.generate(IDS, max_new_tokens=1, do_sample=True, top_k=2, seed=n)[0, 3].item() for n in range(40)]
    best = set(model.base(IDS[:1]).logits[0, -1].topk(2).indices.tolist())
    assert set(two) == best


def test_k_and_the_decoding_can_be_others():
    model = lm.latent_model(iterations=1, latents=2)
    bol = model.markers.bol
    prompt = torch.tensor([[3, 4, 5]])

    class Begin(LogitsProcessor):
        """Two latent steps, one behind the other, and text."""

        def __call__(self, input_ids, scores):
            scores = scores.clone()
            scores[:, bol] = torch.inf if (input_ids == bol).sum() < 2 else -torch.inf
            return scores

    def written(**options):
        return model.generate(prompt, max_new_tokens=30, logits_processor=[Begin()], **options)[0].tolist()

    as_trained = written()
    assert as_trained.count(model.markers.latent) == 4
    with pytest.warns(UserWarning, match="trained with iterations = 1, used with 7"):
        more = written(iterations=7)
    assert more != as_trained
    with pytest.warns(UserWarning, match="trained with iterations = 1, used with 7"):
        other = written(iterations=7, decoding="simultaneous")
    assert other != more
    assert written(decoding="simultaneous") != as_trained


def test_what_generate_refuses():
    model = lm.latent_model()
    for wrong, message in (
        ({"num_beams": 4}, "num_beams = 4: a model with latent steps does not generate like that"),
        ({"use_cache": False}, "use_cache = False"),
        ({"output_scores": True}, "output_scores = True"),
        ({"max_tokens": 4}, "generate has no argument 'max_tokens'; of transformers' it takes max_new_tokens, "),
        ({"max_length": 3}, "max_length = 3: the prompts alone have 3 tokens; set max_new_tokens"),
        ({"do_sample": True, "temperature": 0.0}, "temperature = 0.0: must be above 0 with do_sample"),
        ({"min_new_tokens": 9, "max_new_tokens": 4}, "min_new_tokens = 9: must be 0 to max_new_tokens, 4"),
        ({"repetition_penalty": -1.0}, "repetition_penalty = -1.0: must be a number above 0"),
        ({"input_ids": IDS}, "give the prompts once"),
        ({"attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}, "a prompt without any token"),
        ({"generation_config": GenerationConfig(num_beams=2)}, "num_beams = 2"),
    ):
        with pytest.raises(UserError, match=message):
            model.generate(IDS, **wrong)
    with pytest.raises(UserError, match="give the prompts once"):
        model.generate()


def test_the_runtimes_tokens_are_never_chosen_in_text(tmp_path):
    """Not by us, and not by transformers' own generate on the saved folder."""
    from transformers import AutoModelForCausalLM

    model = lm.latent_model()
    head = model.base.get_output_embeddings()
    with torch.no_grad():  # whatever the states are, one of the two has by far the largest logit
        head.weight[model.markers.latent] = 100 * torch.randn(16)
        head.weight[model.markers.eol] = -head.weight[model.markers.latent]
    [response] = LatentGenerator(model, max_new_tokens=10).generate([[3, 4]])
    runtime = {model.markers.latent, model.markers.eol}
    assert not runtime & set(response.token_ids)
    model.save_pretrained(tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.tensor([[3, 4]])
    written = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False)
    assert not runtime & set(written[0].tolist())


def test_a_latent_step_needs_room():
    model = lm.latent_model(latents=4)
    prompt, script = prompt_and_script(lm.rows(model)[0])
    for room, whole in ((6, False), (7, True)):
        decoder = Scripted(model, [[*script[:6], model.markers.bot]])
        decoder.max_new_tokens = room
        [response] = decoder.generate([prompt])
        assert response.truncated
        assert len(response.token_ids) == (7 if whole else 1), "<bol>, 4 latents, <eol> and a token"


def test_interventions_see_every_iteration_and_change_what_is_read():
    model = lm.latent_model(iterations=3, latents=2)
    prompts, scripts = zip(*map(prompt_and_script, lm.rows(model)), strict=True)
    seen = []

    def zeroed(latents_BND, iteration, responses):
        seen.append((iteration, latents_BND.shape, [None if r is None else r.index for r in responses]))
        return torch.zeros_like(latents_BND)

    own, changed = Scripted(model, scripts), Scripted(model, scripts, intervene=zeroed)
    own.generate(prompts)
    changed.generate(prompts)
    assert [iteration for iteration, *_ in seen] == [1, 2, 3] * 2
    for _, shape, indices in seen[:3]:
        assert shape == (4, 2, 16)
        assert {index for index in indices if index is not None} == {0, 1, 2}, "row 3 has no latent step"
    assert changed.logprobs[0][1:] != pytest.approx(own.logprobs[0][1:], abs=1e-3)
    assert changed.logprobs[0][0] == pytest.approx(own.logprobs[0][0]), "before the first latent nothing changes"
    assert changed.logprobs[3] == pytest.approx(own.logprobs[3], abs=1e-5), "a row without latent steps"


@pytest.mark.parametrize("rows_in", ["the prompts", "a latent step"])
def test_running_out_of_memory_names_what_to_lower(rows_in):
    model = lm.latent_model()

    def too_large(_, args, kwargs):
        if kwargs.get("inputs_embeds") is None:  # the head is compared with the model's own logits
            return
        rows, width, _ = kwargs["inputs_embeds"].shape
        if rows > 3 and (rows_in == "the prompts" or width == model.settings.annotation.latents + 2):
            torch.empty(1 << 50)  # more than any host has

    model.causal.get_decoder().register_forward_pre_hook(too_large, with_kwargs=True)
    prompts = [[3 + number] * 4 for number in range(5)]
    with pytest.raises(
        UserError,
        match=r"out of memory while generating 5 responses at once: lower max_tokens_per_batch \(now 8192\) .* "
        r"max_new_tokens \(now 20\)",
    ):
        Eager(model, max_new_tokens=20).generate(prompts)
    assert len(Eager(model, max_new_tokens=20, max_tokens_per_batch=72).generate(prompts)) == 5


def test_what_is_refused():
    model = lm.latent_model()
    for wrong, message in (
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"temperature": -1.0}, "temperature = -1.0"),
        ({"iterations": -1}, "iterations = -1"),
        ({"decoding": "exact"}, "decoding = 'exact': must be one of sequential, simultaneous, autoregressive"),
        ({"max_tokens_per_batch": 0}, "max_tokens_per_batch = 0"),
    ):
        with pytest.raises(SettingsError, match=message):
            LatentGenerator(model, **{"max_new_tokens": 4, **wrong})
    generator = LatentGenerator(model, max_new_tokens=200)
    with pytest.raises(UserError, match="prompt 1 holds <latent> or <eol>"):
        generator.generate([[3], [model.markers.latent]])
    with pytest.raises(UserError, match="it exceeds the model's context of 256 tokens"):
        generator.generate([[3] * 100])
    with pytest.raises(SettingsError, match="greedy responses are all equal"):
        generator.sample([[3]], 2)
    assert generator.generate([]) == []
    with pytest.raises(SettingsError, match="iterations"):
        LatentSettings(iterations=-2)
