"""Generation: it computes what training computes, whatever the batch; its arguments; what is refused."""

import latent_models as lm
import pytest
import torch

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
