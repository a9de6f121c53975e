"""Blank captions, questions and labels: one rule for all annotation files and for manifests.

They are left out, their entries stay, and one line names the file, the item and the sentence.
"""

import json
from pathlib import Path

import pytest

from minivideococa import cli
from minivideococa.evaluation import FORMATS, Entry, read_annotations, read_manifest

CASES = Path(__file__).parents[1] / "cases"

# format -> a file with %s in place of the text, the fields of its entry, the name of the item in the message
FILES = {
    "msrvtt": (
        '{"videos": [{"video_id": "video7"}, {"video_id": "video8"}], "sentences": ['
        '{"video_id": "video8", "caption": "a cat"}, {"video_id": "video7", "caption": "%s"}]}',
        {"captions": ("TEXT",)},
        "sentence 2, about 'video7'",
    ),
    "msrvtt-1ka": (
        "key,vid_key,video_id,sentence\nret0,msr7,video7,%s\nret1,msr8,video8,a cat\n",
        {"captions": ("TEXT",)},
        "the sentence of line 2, about 'video7'",
    ),
    "msrvtt-qa": (
        '[{"video_id": 7, "question": "%s", "answer": "knit"}, '
        '{"video_id": 8, "question": "who?", "answer": "a cat"}]',
        {"question": "TEXT", "answer": "knit"},
        "the question of item 1, about 'video7'",
    ),
    "msvd-qa": (
        '[{"video_id": 7, "question": "who?", "answer": "%s"}, '
        '{"video_id": 8, "question": "who?", "answer": "a cat"}]',
        {"question": "who?", "answer": "TEXT"},
        "the answer of item 1, about 'vid7'",
    ),
    "activitynet-qa": (
        '[{"video_name": "7", "question": "%s", "question_id": "v_7_1"}, '
        '{"video_name": "8", "question": "who?", "question_id": "v_8_1"}]',
        {"question": "TEXT", "answer": "a cat", "question_type": "free/object"},
        "the question of question 1, about '7'",
    ),
    "next-qa": (
        "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
        "7,9,9,9,%s,1,0,DC,one,two,three,four,five\n8,9,9,9,who?,1,0,DO,a,b,c,d,e\n",
        {
            "question": "TEXT",
            "answer": "two",
            "choices": ("one", "two", "three", "four", "five"),
            "question_type": "descriptive/count",
        },
        "the question of line 2, about '7'",
    ),
    "ivqa": (
        "video_id,question,answer1,answer2,answer3,answer4,answer5\n7,%s,a,b,c,d,e\n8,who?,a,a,a,a,a\n",
        {"question": "TEXT", "answers": tuple("abcde")},
        "the question of line 2, about '7'",
    ),
    "activitynet": (
        '{"v_7": {"duration": 2, "timestamps": [[0, 2]], "sentences": ["%s"]}, '
        '"v_8": {"sentences": ["a cat"]}}',
        {"captions": ("TEXT",)},
        "sentence 1 of 'v_7'",
    ),
    "kinetics": (
        "label,youtube_id,time_start,time_end,split\n%s,xyz,1,11,train\nreading,abc,1,11,train\n",
        {"labels": ("TEXT",)},
        "the label of line 2, of 'xyz'",
    ),
    "manifest": (
        '{"video": "7.mp4", "captions": ["%s"]}\n{"video": "8.mp4", "captions": ["a cat"]}\n',
        {"captions": ("TEXT",)},
        'line 1: text 1 of "captions"',
    ),
}


@pytest.fixture
def messages(recwarn):
    """Return the warnings since the last call."""

    def messages() -> list[str]:
        found = [str(warning.message) for warning in recwarn]
        recwarn.clear()
        return found

    return messages


def read(format, tmp_path, text, split=None):
    path = tmp_path / "file_q.json"
    path.write_text(text, "utf-8")
    answers = [{"question_id": f"v_{i}_1", "answer": "a cat", "type": 5} for i in (7, 8)]
    (tmp_path / "file_a.json").write_text(json.dumps(answers))
    return read_manifest(path) if format == "manifest" else read_annotations(format, path, tmp_path, split)


def test_every_reader_has_an_example():
    """A class of UCF101 cannot be blank: a line without one is no clip."""
    assert {*FORMATS, "manifest"} == {*FILES, "ucf101"}


@pytest.mark.parametrize("blank", ["", " ", "\\t \\n", "\u3000", "\u2028 \u00a0"], ids=ascii)
@pytest.mark.parametrize("format", FILES)
def test_a_blank_text_is_left_out_and_named(tmp_path, messages, format, blank):
    text, says, named = FILES[format]
    if not text.startswith(("{", "[")):  # CSV
        blank = blank.replace("\\t \\n", "\t ")
    filled = read(format, tmp_path, text.replace("%s", "TEXT"))
    assert messages() == []
    first, second = read(format, tmp_path, text.replace("%s", blank))
    assert second == filled[1]
    assert filled[0] == Entry(filled[0].video, **says) and first == Entry(first.video)
    assert first.video.name == filled[0].video.name
    assert messages() == [f"{tmp_path / 'file_q.json'}: 1 blank text left out: {named}"]


def test_blank_and_empty_captions_of_msrvtt(tmp_path, messages):
    """The same with one blank and with nothing."""
    (tmp_path / "clips").mkdir()
    entries = {}
    for name in "m_blank.json", "m_empty.json":
        entries[name] = read_annotations("msrvtt", CASES / name, tmp_path / "clips")
        assert messages() == [f"{CASES / name}: 1 blank text left out: sentence 2, about 'video1'"]
    assert (
        entries["m_blank.json"]
        == entries["m_empty.json"]
        == [
            Entry(tmp_path / "clips" / "video0.mp4", ("a green crescent",)),
            Entry(tmp_path / "clips" / "video1.mp4", ("a yellow crescent",)),
        ]
    )


@pytest.mark.slow
def test_many_blank_texts_are_one_message(tmp_path, messages):
    """Of 200,000 captions 7 are blank: one message, which names the first three, and all others stay."""
    sentences = [
        {"video_id": "v", "caption": " " if n % 30_000 == 5 else f"caption {n}"} for n in range(200_000)
    ]
    (entry,) = read("msrvtt", tmp_path, json.dumps({"videos": [{"video_id": "v"}], "sentences": sentences}))
    assert len(entry.captions) == 199_993
    [message] = messages()
    assert "\n" not in message and message.endswith("; and 4 more")
    assert "7 blank texts left out: sentence 6, about 'v'; sentence 30006, about 'v'; " in message


def test_fields_beside_a_blank_text_are_kept(tmp_path, messages):
    lines = [
        {"video": "a", "captions": ["x", " ", "y"], "label": " ", "question": "", "answer": "no"},
        {"video": "b", "labels": ["", "ring"], "question": "why?", "answer": "\t"},
        {"video": "c", "label": "", "labels": ["ring"]},
    ]
    entries = read("manifest", tmp_path, "".join(json.dumps(line) + "\n" for line in lines))
    assert entries == [
        Entry(tmp_path / "a", ("x", "y")),
        Entry(tmp_path / "b", (), ("ring",), "why?"),
        Entry(tmp_path / "c", (), ("ring",)),
    ]
    assert "7 blank texts" not in messages()[0]
    found = read("activitynet", tmp_path, '{"v": {"sentences": ["A cat.", " ", "It knits."]}}')
    assert found[0].captions == ("A cat. It knits.",) and "sentence 2 of 'v'" in messages()[0]
    found = read("msrvtt-qa", tmp_path, '[{"video_id": 7, "question": "who?", "answer": " "}]')
    assert found == [Entry(tmp_path / "video7.mp4")] and "the answer of item 1" in messages()[0]


def test_blank_choices_and_answers_are_left_out(tmp_path, messages):
    header = "video,question,answer,type,a0,a1,a2,a3,a4\n"
    [entry] = read("next-qa", tmp_path, header + "7,who?,2,DO,a, ,c,d,\n")
    assert (entry.choices, entry.answer) == (("a", "c", "d"), "c")
    assert "2 blank texts left out: choice 1 of line 2, about '7'; choice 4 of line 2" in messages()[0]
    [entry] = read("next-qa", tmp_path, header + "7,who?,1,DO,a, ,c,d,e\n")
    assert entry == Entry(entry.video) and "the answer of line 2" in messages()[0]
    header = "video_id,question,answer1,answer2,answer3,answer4,answer5\n"
    [some, none] = read("ivqa", tmp_path, header + "7,who?,a, ,b,,b\n8,who?,,,,,\n")
    assert (some.answers, some.answer) == (("a", "b", "b"), "b") and none == Entry(none.video)
    assert "7 blank texts left out: answer 2 of line 2, about '7'; answer 4" in messages()[0]
    line = {"video": "a", "question": "who?", "answers": ["x", " "], "choices": ["x", "", "y"]}
    [entry] = read("manifest", tmp_path, json.dumps(line | {"question_type": " "}))
    assert entry == Entry(tmp_path / "a", question="who?", answers=("x",), choices=("x", "y"))
    assert 'line 1: "question_type"; line 1: text 2 of "answers"' in messages()[0]
    [entry] = read("manifest", tmp_path, json.dumps(line | {"question": " "}))
    assert entry == Entry(tmp_path / "a")


def test_only_the_blank_texts_of_the_split_are_reported(tmp_path, messages):
    text = "label,youtube_id,time_start,time_end,split\n ,xyz,1,11,train\nreading,abc,1,11,test\n"
    assert len(read("kinetics", tmp_path, text, "test")) == 1 and messages() == []
    assert len(read("kinetics", tmp_path, text, "train")) == 1 and "line 2, of 'xyz'" in messages()[0]


def test_the_command_continues_without_blank_texts(tmp_path, capsys):
    from minivideococa.demo import CLIPS

    (tmp_path / "m.jsonl").write_text(
        "".join(
            json.dumps(line) + "\n"
            for line in [
                {
                    "video": str(CLIPS / "single.gif"),
                    "captions": ["a red circle", " "],
                    "question": " ",
                    "answer": "red",
                },
                {"video": str(CLIPS / "pair.gif"), "captions": ["a blue ring"]},
            ]
        )
    )
    assert (
        cli.main(["evaluate", str(tmp_path / "m.jsonl"), "--no-cache", "--json", "--tasks", "retrieve"]) == 0
    )
    out, err = capsys.readouterr()
    assert json.loads(out)["metrics"]["retrieve"]["text-to-video R@1"]["items"] == 2
    assert 'm.jsonl: 2 blank texts left out: line 1: "question"; line 1: text 2 of "captions"' in err


# Numbers, names and depths that break readers

DEEP = "[" * 100_000
WRONG = {
    "msrvtt": [
        ('{"videos": [{"video_id": "a\\u0000b"}], "sentences": []}', r"'a\x00b.mp4'"),
        ('{"videos": [{"video_id": "a\\ud83d"}], "sentences": []}', r"'a\ud83d.mp4'"),
        (
            '{"videos": [], "sentences": [{"video_id": "a\\nb", "caption": "x"}]}',
            "sentence 1 is about 'a\\nb'",
        ),
        ('{"videos": [{"video_id": " "}], "sentences": []}', 'video 1: "video_id" is missing'),
        (
            '{"videos": [{"video_id": "v", "split": %s}], "sentences": []}' % ("[" * 90 + "]" * 90),
            'video 1: "split"',
        ),
    ],
    "msrvtt-1ka": [("key,vid_key,video_id,sentence\nr,m,a\0b,a cat\n", r"'a\x00b.mp4'")],
    "msrvtt-qa": [
        (
            '[{"video_id": true, "question": "who?", "answer": "a"}]',
            'item 1: "video_id" is missing or no number',
        ),
        (
            '[{"video_id": 1e400, "question": "who?", "answer": "a"}]',
            'item 1: "video_id" is missing or no number',
        ),
        ('[{"video_id": %s, "question": "who?", "answer": "a"}]' % ("9" * 5000), "not JSON"),
        ('[{"video_id": NaN, "question": "who?", "answer": "a"}]', "NaN is not JSON"),
    ],
    "activitynet": [
        ('{"a\\u0000b": {"sentences": ["x"]}}', r"'a\x00b.mp4'"),
        ('{"v": {"sentences": []}}', "sentences of 'v' are []"),
    ],
    "kinetics": [
        (
            f"label,youtube_id,time_start,time_end,split\nl,xyz,{'9' * 400},5,train\n",
            "line 2: a time of 'xyz' is",
        ),
        ("label,youtube_id,time_start,time_end,split\nl,xyz,1,1e308,train\n", "line 2: a time of 'xyz' is"),
        (
            f"label,youtube_id,time_start,time_end,split\nl,xyz,1,{'9' * 5000},train\n",
            "line 2: a time of 'xyz' is",
        ),
        ("label,youtube_id,time_start,time_end,split\nl,x\0z,1,11,train\n", r"'l/x\x00z_0"),
        ("label,youtube_id,time_start,time_end,split\nl\0,xyz,1,11,train\n", r"'l\x00/xyz"),
    ],
    "manifest": [
        ('{"video": "a\\u0000b"}', 'line 1: "video" is'),
        ('{"video": "a\\ud83d"}', 'line 1: "video" is'),
        ('{"video": "a", "captions": %s}' % ("[" * 90 + "]" * 90), 'line 1: "captions" is'),
    ],
}


@pytest.mark.parametrize(
    "format, text, named",
    [
        *((format, text, named) for format, cases in WRONG.items() for text, named in cases),
        *(
            (format, text, "nested too deeply")
            for format in FILES
            if format not in ("kinetics", "msrvtt-1ka", "next-qa", "ivqa")
            for text in (DEEP, '{"a":' * 100_000)
        ),
    ],
)
def test_errors_are_one_line_that_names_the_item(tmp_path, format, text, named):
    with pytest.raises(ValueError) as caught:
        read(format, tmp_path, text)
    message = str(caught.value)
    assert (
        message.startswith(f"{tmp_path / 'file_q.json'}: ")
        and named in message
        and "\n" not in message
        and len(message) < 700
    )
    assert (
        "it should look like" if format != "manifest" else "give" if "nested" not in named else "like {"
    ) in message


def test_a_video_id_of_400_digits_is_a_missing_clip(tmp_path):
    """Nothing overflows: it is a name that no clip has."""
    found = read("msrvtt-qa", tmp_path, '[{"video_id": %s, "question": "who?", "answer": "a"}]' % ("9" * 400))
    assert found[0].video.name == f"video{'9' * 400}.mp4"
    times = '{"v": {"duration": 1e999, "timestamps": [[%s, 1e308]], "sentences": ["A cat."]}}' % ("9" * 400)
    assert read("activitynet", tmp_path, times)[0].captions == (
        "A cat.",
    )  # times are not used: the paragraph is
