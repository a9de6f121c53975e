"""Examples and batches: their order, captions, ids and targets, answers as classes, and what is refused."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minivideococa as mvc
from minivideococa.evaluation import Entry, read_manifest
from minivideococa.media.tokenizer import clip_tokenizer_json, load_tokenizer
from minivideococa.training.data import (
    Dataset,
    examples_of,
    frequent_answers,
    texts_of,
    with_answer_among,
)
from minivideococa.training.tokens import ClipStore
from minivideococa.world.shapes import write_shapes

CONTEXT = 24  # of the model: the world's captions fit
FRAMES = 3
TASKS = ("caption", "contrastive", "caption+contrastive", "qa")


@pytest.fixture(scope="module")
def model(tiny_model, tokenizer):
    context = {"context_length": CONTEXT}
    tokenizer = replace(tokenizer, context_length=CONTEXT)
    return tiny_model(2, tokenizer=tokenizer, text=context, decoder=context)


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Seven of the world's clips as files, with captions, questions and answers."""
    return read_manifest(write_shapes(tmp_path_factory.mktemp("world") / "clips", 7, 1, frames=4))


@pytest.fixture(scope="module")
def store(model, entries, tmp_path_factory):
    store = ClipStore(model, tmp_path_factory.mktemp("cache"), num_frames=FRAMES)
    assert store.prepare(entries) == entries
    return store


@pytest.fixture(scope="module")
def dataset(model, entries, store):
    """`Dataset` of the world's clips; keywords replace the defaults."""

    def make(task, entries=entries, model=model, **keywords):
        return Dataset(model, examples_of(entries, task), task, store, **{"batch_size": 3} | keywords)

    return make


def same(a, b):
    """Assert that two batches are the same bit for bit."""
    assert a.examples == b.examples
    for name in ("inputs", "ids", "targets", "labels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), strict=True)


def identities(examples):
    return [(e.video, e.question, e.answer) for e in examples]


# Examples


def test_the_captions_of_a_clip_are_collected_from_all_of_its_entries(tmp_path):
    clip, link, other = tmp_path / "a.mp4", tmp_path / "link.mp4", tmp_path / "b.mp4"
    os.symlink(clip, link)
    examples = examples_of(
        [
            Entry(clip, ("one", "two"), question="what is it?", answer="a dog"),
            Entry(other, ("three",)),
            Entry(link, ("two", "four"), labels=("x",)),
            Entry(clip, ("a part",), start=1.0),
            Entry(clip, start=2.0),
        ],
        "caption+contrastive",
    )
    assert examples == [
        Entry(clip, ("one", "two", "four")),
        Entry(other, ("three",)),
        Entry(clip, ("a part",), start=1.0),
    ]


def test_each_question_about_a_clip_is_an_example():
    first = Entry(Path("a.mp4"), ["a cat"], ["cat"], question="what?", answer="cat")
    second = Entry(Path("a.mp4"), question="how many?", answer="one")
    unanswered = Entry(Path("a.mp4"), question="why?")
    examples = examples_of([first, unanswered, second, first, Entry(Path("b.mp4"), ("a",))], "qa")
    assert examples == [Entry(Path("a.mp4"), question="what?", answer="cat"), second]


@pytest.mark.parametrize("task", TASKS)
def test_a_manifest_without_what_the_task_needs_is_refused(task):
    wrong = {"captions": ("a dog",)} if task == "qa" else {"question": "what?", "answer": "a dog"}
    needs = '"question" with "answer"' if task == "qa" else '"captions"'
    with pytest.raises(ValueError) as error:
        examples_of([Entry(Path("a.mp4"), **wrong)], task)
    assert str(error.value).startswith(
        f"the manifest: no entry has {needs}, which task {task} learns from: add"
    )


def test_words_that_the_tokenizer_lacks_are_listed(model):
    entries = [
        Entry(Path("a.mp4"), ("a red dog", "a dog and a cat")),
        Entry(Path("a.mp4"), question="what colour is the circle", answer="red"),
    ]
    assert texts_of(entries) == ["a red dog", "a dog and a cat", "what colour is the circle", "red"]
    assert model.tokenizer.unknown(texts_of(entries)) == ["dog", "cat", "what", "colour", "the"]


# Order


@pytest.mark.slow
@given(st.integers(1, 9), st.integers(0, 2**63 - 1), st.integers(0, 1000), st.sampled_from(["caption", "qa"]))
def test_each_example_is_in_one_batch_of_an_epoch(dataset, batch_size, seed, epoch, task):
    data = dataset(task, batch_size=batch_size, seed=seed)
    batches = list(data.batches(epoch))
    sizes = [len(batch.examples) for batch in batches]
    assert sizes[:-1] == [batch_size] * (len(data) - 1) and 0 < sizes[-1] <= batch_size
    seen = identities(e for batch in batches for e in batch.examples)
    assert len(seen) == len(data.examples) and set(seen) == set(identities(data.examples))


@given(st.integers(1, 9), st.integers(0, 99), st.integers(0, 99), st.sampled_from(TASKS))
def test_order_and_captions_depend_on_the_seed_and_the_epoch_alone(dataset, batch_size, seed, epoch, task):
    """Not on the size of a batch, nor on what was asked for before."""
    data, single = dataset(task, batch_size=batch_size, seed=seed), dataset(task, batch_size=1, seed=seed)
    data.batch(epoch + 1, 0)
    rows = [batch.part(slice(i, i + 1)) for batch in data.batches(epoch) for i in range(len(batch.examples))]
    for row, alone in zip(rows, single.batches(epoch), strict=True):
        L = alone.ids.shape[1]  # a text alone is padded to its own length
        assert row.examples == alone.examples and not row.targets[:, L:].any()
        np.testing.assert_array_equal(row.ids[:, :L], alone.ids)
        np.testing.assert_array_equal(row.targets[:, :L], alone.targets)
        np.testing.assert_array_equal(row.inputs, alone.inputs)
        np.testing.assert_array_equal(row.lengths, alone.lengths)


def test_epochs_and_seeds_have_orders_of_their_own(dataset):
    orders = {
        tuple(identities(e for batch in dataset("caption", seed=seed).batches(epoch) for e in batch.examples))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


@pytest.mark.parametrize("first", range(4))
def test_a_run_resumes_at_any_batch_with_the_same_bits(model, dataset, entries, store, first):
    whole = list(dataset("caption+contrastive", seed=5).batches(2))
    again = ClipStore(model, store.folder, num_frames=FRAMES)
    again.prepare(entries)
    examples = examples_of(entries, "caption+contrastive")
    resumed = Dataset(model, examples, "caption+contrastive", again, batch_size=3, seed=5)
    assert resumed.fingerprint() == dataset("caption+contrastive", seed=5).fingerprint()
    for a, b in zip(whole[first:], resumed.batches(2, first), strict=True):
        same(a, b)


def test_the_fingerprint_tells_data_apart(dataset, entries):
    other = [replace(entries[0], captions=("a red circle",)), *entries[1:]]
    prints = [
        dataset("caption").fingerprint(),
        dataset("contrastive").fingerprint(),
        dataset("qa").fingerprint(),
        dataset("qa", answers=("circle",)).fingerprint(),
        dataset("qa", answers=("star",)).fingerprint(),
        dataset("caption", seed=1).fingerprint(),
        dataset("caption", batch_size=2).fingerprint(),
        dataset("caption", entries=entries[1:]).fingerprint(),
        dataset("caption", entries=entries[::-1]).fingerprint(),
        dataset("caption", entries=other).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)


def test_every_caption_of_a_clip_is_drawn_in_some_epoch(model, dataset, entries):
    data, drawn = dataset("caption"), {}
    for epoch in range(60):
        for batch in data.batches(epoch):
            for example, ids in zip(batch.examples, batch.ids, strict=True):
                drawn.setdefault(example.video, set()).add(model.tokenizer.decode(ids))
    assert drawn == {entry.video: set(entry.captions) for entry in entries}
    assert max(map(len, drawn.values())) > 2


# Inputs


def test_inputs_are_the_frame_tokens_of_the_examples(model, dataset):
    batch = dataset("caption").batch(0, 0)
    assert batch.inputs.dtype == model.dtype
    for tokens, example in zip(batch.inputs, batch.examples, strict=True):
        pixels = model.preprocess(mvc.read_video(example.video, FRAMES))
        np.testing.assert_array_equal(tokens, model.encode_frames(pixels))


# Ids and targets


@pytest.mark.parametrize(
    ("task", "length"), [("caption", 6), ("contrastive", CONTEXT), ("caption+contrastive", CONTEXT)]
)
def test_captions_are_padded_to_the_longest_or_for_latents_to_the_context(dataset, entries, task, length):
    texts = ("a red circle",), ("a large red circle",)
    captions = [replace(entry, captions=text) for entry, text in zip(entries, texts, strict=False)]
    batch = dataset(task, entries=captions).batch(0, 0)
    assert batch.ids.shape == (2, length) and batch.ids.dtype == np.int64
    row = list(batch.lengths).index(5)
    words = ["<start_of_text>", "a", "red", "circle", "<end_of_text>"]
    vocabulary = dataset(task).model.tokenizer.vocabulary
    np.testing.assert_array_equal(batch.ids[row, :5], [vocabulary.token_to_id(word) for word in words])
    np.testing.assert_array_equal(batch.targets[row, :5], [False, True, True, True, True])
    assert not batch.ids[row, 5:].any() and not batch.targets[row, 5:].any()
    assert list(batch.lengths[::-1] if row else batch.lengths) == [5, 6] and batch.labels is None


def test_a_caption_that_is_cut_ends_with_the_end_token(dataset, entries):
    long = " and ".join(["a red circle"] * 9)
    with pytest.warns(UserWarning, match=rf"^the text has 37 ids; the first {CONTEXT} are used$"):
        data = dataset("caption", entries=[replace(entries[0], captions=(long,))])
    batch = data.batch(0, 0)
    assert batch.ids.shape == (1, CONTEXT) and batch.ids[0, -1] == data.model.tokenizer.end_id
    assert batch.targets[0].tolist() == [False] + [True] * (CONTEXT - 1)


@pytest.fixture(scope="module")
def clip_model(tiny_model, tmp_path_factory):
    """A model with CLIP's vocabulary, whose padding is also the token "!"."""
    path = tmp_path_factory.mktemp("clip") / "tokenizer.json"
    path.write_text(clip_tokenizer_json(), encoding="utf-8")
    size = {"context_length": CONTEXT, "vocab_size": 49408}
    tokenizer = load_tokenizer(path, CONTEXT, pad_id=0, clean="lower")
    return tiny_model(2, tokenizer=tokenizer, text=size, decoder=size)


def test_an_exclamation_mark_is_a_target_although_its_id_is_that_of_padding(dataset, clip_model, entries):
    texts = ("stop !; !",), ("two red stars are here",)
    captions = [replace(entry, captions=text) for entry, text in zip(entries, texts, strict=False)]
    batch = dataset("caption", entries=captions, model=clip_model).batch(0, 0)
    row = [e.video for e in batch.examples].index(entries[0].video)
    assert batch.ids[row].tolist() == [49406, 1691, 0, 282, 256, 49407, 0]
    assert batch.targets[row].tolist() == [False, True, True, True, True, True, False]


QUESTIONS = st.sampled_from(
    ["what is it?", "Who's there", "is it 3 o'clock?!", "a & b;", " how  many ", "what's the man's", "été ?"]
)
ANSWERS = st.sampled_from(["a dog", "'s", "42", "!", "n't", "Yes.", "...", "two dogs", "e\u0301"])


@given(QUESTIONS, ANSWERS)
def test_an_answer_begins_where_the_prompt_ends(dataset, clip_model, entries, question, answer):
    """The prompt's ids are those that `generate` begins with; the rest, and the end token, are targets."""
    entry = Entry(entries[0].video, question=question, answer=answer)
    batch = dataset("qa", entries=[entry], model=clip_model).batch(0, 0)
    prompt = clip_model.tokenizer.encode(question)[0]
    prompt = prompt[: list(prompt).index(49407)]
    np.testing.assert_array_equal(batch.ids[0, : len(prompt)], prompt)
    assert batch.targets[0].tolist() == [i >= len(prompt) for i in range(batch.ids.shape[1])]
    assert batch.lengths.tolist() == [batch.ids.shape[1]]
    decode = clip_model.tokenizer.decode
    assert decode(batch.ids[0][batch.targets[0]]) == decode(clip_model.tokenizer.encode(answer)[0])


@pytest.mark.parametrize("task", ["caption", "caption+contrastive", "qa"])
def test_the_targets_are_what_score_counts(model, dataset, task):
    """The log-probability of the targets is that of the caption, or of the answer after its question."""
    data = dataset(task)
    for batch in data.batches(0):
        for tokens, ids, targets, example in zip(
            batch.inputs, batch.ids, batch.targets, batch.examples, strict=True
        ):
            video = model.pool(tokens)
            logits = model.decode(video.tokens, ids[None, :-1])[0]  # [L, V]
            log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            total = log_probs[np.arange(len(ids) - 1), ids[1:]] @ targets[1:]
            if task == "qa":
                expected = mvc.score(model, video, [example.answer], example.question)[0]
            else:
                expected = mvc.score(model, video, [model.tokenizer.decode(ids)])[0]
            np.testing.assert_allclose(total, expected, rtol=1e-12)


def test_an_answer_that_does_not_fit_is_refused_by_name(dataset, entries):
    long = replace(entries[3], question=" and ".join(["a red"] * 7), answer="circle")  # start, 20, 1, end
    assert dataset("qa", entries=[entries[0], replace(long, answer="circle circle")])
    with pytest.raises(ValueError) as error:
        dataset("qa", entries=[entries[0], replace(long, answer="circle circle circle")])
    message = str(error.value)
    assert message.startswith(f"{entries[3].video}: the question 'a red and a red") and "\n" not in message
    assert "'circle circle circle' has 25 ids" in message and f"at most {CONTEXT}" in message


# Answers as classes


def answered(*answers):
    return [Entry(Path("a.mp4"), question=f"q{i}", answer=answer) for i, answer in enumerate(answers)]


def test_the_classes_are_the_most_frequent_answers():
    examples = answered("cat", "The dog", "dog", "a bird", "Dog.", "cat", "fish", "bird")
    assert frequent_answers(examples, 1) == ("The dog",)
    assert frequent_answers(examples, 3) == ("The dog", "cat", "a bird")  # a tie: the first to appear
    assert frequent_answers(examples, 9) == ("The dog", "cat", "a bird", "fish")
    with pytest.raises(ValueError, match="count is 0"):
        frequent_answers(examples, 0)


def test_answers_of_punctuation_alone_are_classes_of_their_own():
    assert frequent_answers(answered("?", "!", "!"), 9) == ("!", "?")


def test_examples_of_other_answers_are_left_out():
    examples = answered("cat", "dog", "The cat.", "fish")
    assert with_answer_among(examples, ("cat", "bird")) == [examples[0], examples[2]]


def test_a_classifier_reads_the_question_alone(model, dataset, entries):
    entries = [
        Entry(entries[0].video, question="a red", answer="circle"),
        Entry(entries[0].video, question="a large blue", answer="Star"),
        Entry(entries[1].video, question="a green", answer="triangle"),
    ]
    batch = dataset("qa", entries=entries, answers=("star", "circle")).batch(0, 0)
    assert batch.labels.dtype == np.int64 and batch.ids.shape == (3, 5)
    labels = {"circle": 1, "Star": 0, "triangle": -1}
    assert [labels[e.answer] for e in batch.examples] == batch.labels.tolist()
    for example, ids, length, targets in zip(
        batch.examples, batch.ids, batch.lengths, batch.targets, strict=True
    ):
        np.testing.assert_array_equal(ids, model.tokenize([example.question])[0, :5])
        assert length == len(example.question.split()) + 2
        assert targets.tolist() == [0 < i < length for i in range(5)]


def test_a_question_that_is_too_long_for_a_classifier_is_cut(dataset, entries):
    entry = replace(entries[0], question=" and ".join(["a red"] * 9))
    with pytest.warns(UserWarning, match="^the text has 28 ids; the first 24 are used$"):
        dataset("qa", entries=[entry], answers=("circle",))


@pytest.mark.parametrize(
    ("keywords", "message"), [({"batch_size": 0}, "batch_size is 0"), ({"seed": -1}, "seed is -1")]
)
def test_invalid_arguments(dataset, keywords, message):
    with pytest.raises(ValueError, match=message):
        dataset("caption", **keywords)
